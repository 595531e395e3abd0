"""The book of what is wrong with a device, by readings and events that the tests make up."""

import pytest
from respawner_spawner.devices.health import THERMAL_SECONDS, HealthBook
from respawner_spawner.devices.values import Access, Gpu, Reading

GPU = Gpu("GPU-a", "NVIDIA A100", 80 << 30)
OTHER = Gpu("GPU-b", "NVIDIA A100", 80 << 30)


@pytest.fixture
def book():
    book = HealthBook()
    book.found([GPU, OTHER], "", 0)
    return book


def words(book, uuid="GPU-a"):
    return "; ".join(next(health for health in book.health() if health.uuid == uuid).words)


def test_a_gpu_that_stays_too_hot_is_sick_until_it_has_cooled_down(book):
    hot = Reading("GPU-a", 0, temperature_celsius=93, thermal_slowdown=True)
    for now in range(THERMAL_SECONDS):
        book.read(hot, now)
    assert words(book) == ""
    book.read(hot, THERMAL_SECONDS)
    assert "too hot at 93 °C" in words(book)
    book.read(Reading("GPU-a", 0, temperature_celsius=60), THERMAL_SECONDS + 1)
    assert words(book) == ""
    assert [event.kind for event in book.events] == ["thermal", "recovered"]


def test_heat_that_comes_and_goes_starts_anew(book):
    for now in range(0, 10 * THERMAL_SECONDS, 30):
        book.read(Reading("GPU-a", now, thermal_slowdown=now % 60 == 0), now)
    assert book.events == type(book.events)()


def test_what_lasts_is_one_event_and_keeps_when_it_began(book):
    for now in (10, 20, 30):
        book.read(Reading("GPU-a", now, error="NVML: Unknown Error"), now)
    assert [(event.at, event.kind) for event in book.events] == [(10, "unreadable")]
    assert book.health()[0].since == 10


def test_an_xid_stays_until_somebody_says_that_the_gpu_is_well(book):
    book.xid("GPU-a", 48, 1)
    for now in range(2, 100):
        book.read(Reading("GPU-a", now, ecc_uncorrected=0), now)
    assert words(book) == "Xid 48: memory error that could not be corrected"
    assert book.clear("GPU-a", 100)
    assert not book.clear("GPU-a", 101)
    assert words(book) == ""


def test_an_xid_of_nobody_knows_which_gpu_suspects_all(book):
    book.xid("", 79, 1)
    assert "of an unknown GPU" in words(book, "GPU-a")
    assert "of an unknown GPU" in words(book, "GPU-b")


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 109])
def test_errors_of_programs_are_no_fault_of_the_gpu(book, code):
    book.xid("GPU-a", code, 1)
    assert words(book) == ""
    assert not book.events[-1].cordons
    assert book.xid_counts == {"GPU-a": {code: 1}}


def test_an_xid_that_nobody_has_heard_of_cordons_and_names_the_list(book):
    book.xid("GPU-a", 4711, 1)
    assert "Xid 4711: see https://docs.nvidia.com" in words(book)


def test_recovered_is_said_when_nothing_is_wrong_any_more_and_not_before(book):
    book.xid("GPU-a", 48, 1)
    book.read(Reading("GPU-a", 2, ecc_uncorrected=1), 2)
    book.read(Reading("GPU-a", 3, ecc_uncorrected=0), 3)
    assert [event.kind for event in book.events] == ["xid", "ecc"]
    book.clear("GPU-a", 4)
    assert [event.kind for event in book.events] == ["xid", "ecc", "recovered"]


def test_a_gpu_that_comes_back_from_the_dead_takes_its_xid_with_it(book):
    book.xid("GPU-a", 79, 1)
    book.found([OTHER], "", 2)
    assert "not there any more" in words(book)
    book.found([GPU, OTHER], "", 3)
    assert words(book) != ""  # listed, but nobody has read it yet
    book.read(Reading("GPU-a", 4, ecc_uncorrected=0), 4)
    assert words(book) == ""


def test_a_session_that_lost_its_gpu_counts_until_it_is_known_to_have_it_again(book):
    def access(verdict):
        return Access("c0ffee", "team/ada/", ("GPU-a",), verdict, "may not open /dev/nvidia0", 0)

    book.access([access("usable")], 1)
    assert words(book) == ""
    book.access([access("blocked")], 2)
    assert words(book) == "team/ada/: may not open /dev/nvidia0"
    assert words(book, "GPU-b") == ""
    book.access([access("unknown")], 3)
    assert words(book) != ""
    book.access([access("usable")], 4)
    assert words(book) == ""
    book.access([access("blocked")], 5)
    book.access([], 6)  # the session is gone
    assert [event.kind for event in book.events] == ["blocked", "recovered"] * 2


def test_the_book_of_events_does_not_grow_for_ever(book):
    for now in range(1000):
        book.xid("GPU-a", 31, now)
    assert len(book.events) == 200
    assert book.xid_counts["GPU-a"][31] == 1000
