import pytest
from hypothesis import given
from hypothesis import strategies as st
from respawner_spawner.leases.asks import (
    BadAsk,
    ask_from,
    describe,
    field_of,
    is_preemptible,
    options_from_field,
    options_of,
    wants_cpu_meanwhile,
)
from respawner_spawner.leases.model import Ask, Kind

GIB = 1 << 30


@pytest.mark.parametrize(
    ("options", "ask"),
    [
        ({}, Ask(Kind.NONE)),
        ({"image": "a:1"}, Ask(Kind.NONE)),
        ({"gpus": "2"}, Ask(Kind.GPU, 2)),
        (
            {"gpus": 1, "gpu_model": "a100", "gpu_memory": "40G"},
            Ask(Kind.GPU, 1, "a100", min_memory_bytes=40 * GIB),
        ),
        ({"mig": "1g.10gb"}, Ask(Kind.MIG, 1, profile="1g.10gb")),
        ({"mig": "any", "gpus": 2}, Ask(Kind.MIG, 2)),
        ({"share": "10G", "gpu_host": "gpu-b"}, Ask(Kind.SHARE, 1, share_bytes=10 * GIB, host="gpu-b")),
        ({"gpu_uuids": "GPU-a, GPU-b", "gpus": 2}, Ask(Kind.GPU, 2, uuids=("GPU-a", "GPU-b"))),
        ({"gpu_uuids": ["GPU-a"]}, Ask(Kind.GPU, 1, uuids=("GPU-a",))),
    ],
)
def test_options_are_understood(options, ask):
    assert ask_from(options, max_gpus=4) == ask


def test_what_is_not_chosen_is_the_admins_default():
    assert ask_from({}, default_gpus=1, max_gpus=4) == Ask(Kind.GPU, 1)
    assert ask_from({"gpus": "0"}, default_gpus=1, max_gpus=4).kind is Kind.NONE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 5}, "gpus = 5: choose 0 to 4"),
        ({"gpus": -1}, "gpus = -1: choose 0 to 4"),
        ({"gpus": "many"}, "gpus = 'many': choose 0 to 4"),
        ({"gpus": True}, "gpus = True: choose"),
        ({"gpus": 1.5}, "gpus = 1.5: choose"),
        ({"gpus": None}, "gpus = None: choose"),
        ({"gpu": 1}, "gpu = 1: no such choice. Known: gpus"),
        ({"gpus": 1, "gpu_memory": "much"}, "gpu_memory = 'much' is not a size"),
        ({"share": "0G"}, "share = '0G'"),
        ({"share": "1G", "mig": "any"}, "choose one of them"),
        ({"gpus": 1, "gpu_model": ["A100"]}, "gpu_model = "),
        ({"gpus": 1, "gpu_uuids": 7}, "gpu_uuids = 7"),
    ],
)
def test_what_cannot_be_is_named_with_the_choice(options, message):
    with pytest.raises(BadAsk) as caught:
        ask_from(options, max_gpus=4)
    assert message in str(caught.value)


def test_cpu_meanwhile_is_a_yes_or_no():
    assert wants_cpu_meanwhile({"cpu_meanwhile": "on"})
    assert wants_cpu_meanwhile({"cpu_meanwhile": True})
    assert not wants_cpu_meanwhile({})
    with pytest.raises(BadAsk, match="cpu_meanwhile = 'perhaps'"):
        wants_cpu_meanwhile({"cpu_meanwhile": "perhaps"})


def test_only_who_says_so_is_not_preemptible():
    assert is_preemptible({})
    assert is_preemptible({"preemptible": ""})
    assert not is_preemptible({"preemptible": False})
    assert not is_preemptible({"preemptible": "false"})
    with pytest.raises(BadAsk, match="preemptible = 'sometimes': say true or false"):
        is_preemptible({"preemptible": "sometimes"})
    with pytest.raises(BadAsk, match="preempt = False: no such choice"):
        ask_from({"preempt": False}, max_gpus=1)


_WORDS = st.text("ab1 &=ü", max_size=8).map(str.strip)
_SIZES = st.integers(1, 1 << 40)
_ASKS = st.one_of(
    st.just(Ask(Kind.NONE)),
    st.builds(
        Ask,
        st.sampled_from([Kind.GPU, Kind.MIG]),
        st.integers(1, 4),
        _WORDS,
        st.one_of(st.just(0), _SIZES),
        host=_WORDS,
    ),
    st.builds(Ask, st.just(Kind.SHARE), st.just(1), _WORDS, share_bytes=_SIZES, host=_WORDS),
)


@given(_ASKS)
def test_options_and_form_fields_lead_back_to_the_ask(ask):
    assert ask_from(options_of(ask), max_gpus=4) == ask
    assert ask_from(options_from_field(field_of(ask)), max_gpus=4) == ask


def test_an_ask_reads_like_a_sentence():
    assert (
        describe(Ask(Kind.GPU, 2, "A100", 40 * GIB, host="gpu-b"))
        == "2 GPUs (A100, from 40 GiB each, on gpu-b)"
    )
    assert describe(Ask(Kind.MIG, 1, profile="1g.10gb")) == "1 MIG device 1g.10gb"
    assert describe(Ask(Kind.SHARE, 1, share_bytes=10 * GIB)) == "10 GiB of a shared GPU"
    assert describe(Ask(Kind.NONE)) == "no GPU"
