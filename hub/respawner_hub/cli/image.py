"""`respawner-hub image`: build, list and test the images that sessions run in, and offer some to users."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from respawner_spawner.engine import engine_at

from .. import images
from ..engines import engines_of
from ..images import contents, fitness, offered
from ..images.build import GB, recipe_of, work_folder
from ..images.docker_cli import ImageInfo, find_docker_cli
from ..images.errors import ImageTestError
from ..images.recipe import RECIPE_LABEL
from ..images.versions import Version, read_versions, version_of
from ..settings import Settings
from ..steps import step
from .checks import print_check


def add_parser(subparsers: Any) -> None:
    """Add `image` with its actions to the subparsers of the main parser."""
    parser = subparsers.add_parser("image", help="build, list and test the images of sessions")
    actions = parser.add_subparsers(dest="image_action", metavar="ACTION", required=True)
    build = actions.add_parser(
        "build", help="build an image of images/versions.toml; prints its layers, keeps its bill of materials"
    )
    build.add_argument("name", metavar="NAME", help="for example respawner/pytorch-cuda:2.7")
    build.add_argument(
        "--lock",
        action="store_true",
        help="take the newest wheels that the requirements allow, and write them down with hashes in images/locks/",
    )
    listing = actions.add_parser(
        "list", help="images that can be built here, and whether the engine has them"
    )
    listing.add_argument("--json", action="store_true", help="as one JSON array")
    test = actions.add_parser("test", help="prove an image fit: any image, also one that was not built here")
    test.add_argument("name", metavar="NAME")
    test.add_argument(
        "--gpu", action="append", default=[], metavar="UUID", help="also CUDA on this device; may be repeated"
    )
    test.add_argument("--json", action="store_true", help="as one JSON array")
    add = actions.add_parser(
        "add",
        help="let users choose an image on the spawn page, once every host has it and it is proven fit there",
    )
    add.add_argument("name", metavar="NAME", help="pulled where an engine does not have it")
    add.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="UUID",
        help="also CUDA on this device; not in a cluster",
    )
    remove = actions.add_parser(
        "remove", help="let nobody choose an image any more; sessions and the image stay"
    )
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what the parsed arguments say.

    :return: 0; 1 where the image is not fit.
    :raises ImageError: it could not be done.
    """
    return _ACTIONS[args.image_action](args, settings)


def _build(args: argparse.Namespace, settings: Settings) -> int:
    version_of(images.project_root() / "images", args.name)
    with step(f"Image {args.name}") as say:
        images.ensure_image(
            engine_host=settings.engine.host,
            image=args.name,
            state_dir=settings.state_dir,
            torch=_torch(settings, args.name),
            base=settings.image.base or None,
            lock=args.lock,
            log=say,
        )
    docker = find_docker_cli(settings.engine.host)
    with step("Contents") as say:
        for layer in contents.layers(docker, args.name):
            say(f"{layer.size_bytes / GB:6.2f} GB  {layer.made_by}")
        file, counts = contents.write_sbom(docker, args.name, work_folder(settings.state_dir, args.name))
        say(f"{', '.join(f'{count} {kind}' for kind, count in counts.items())} packages: {file}")
    return 0


def _add(args: argparse.Namespace, settings: Settings) -> int:
    if args.gpu and settings.cluster:
        raise ImageTestError(
            f"--gpu {args.gpu[0]} is for one machine; a device of a cluster's host is tried by `respawner-hub doctor --gpu UUID`, "
            "with the sessions' own image. Add the image without --gpu."
        )
    image_ids = {}
    for host, engine in engines_of(settings).items():
        with step(f"{args.name} on {host}") as say:
            if fitness.ensure_present(engine, args.name):
                say("pulled")
        checks = fitness.prove_fit(engine, args.name, settings.state_dir, args.gpu, on_check=print_check)
        if failed := [check.name for check in checks if check.state == "failed"]:
            more = " any more" if offered.withdraw(settings.state_dir, args.name) else ""
            print(
                f"{args.name} is not offered{more}: on {host} it is not fit for sessions ({', '.join(failed)})",
                file=sys.stderr,
            )
            return 1
        with fitness.asked(engine):
            image_ids[host] = engine.client.inspect_image(args.name)["Id"]
    offered.offer(settings.state_dir, args.name, image_ids)
    print(f"Users can choose {args.name} from now on.")
    return 0


def _remove(args: argparse.Namespace, settings: Settings) -> int:
    if args.name == settings.image.name:
        raise images.OfferedError(f"{args.name} is the sessions' own image: change [image] name instead.")
    if not offered.withdraw(settings.state_dir, args.name):
        raise images.OfferedError(
            f"{args.name} is not offered; there are {', '.join(offered.read_offered(settings.state_dir)) or 'none'}."
        )
    print(f"Nobody can choose {args.name} any more; sessions that run it go on.")
    return 0


def _list(args: argparse.Namespace, settings: Settings) -> int:
    docker = find_docker_cli(settings.engine.host)
    docker.check_reachable()
    table = read_versions(images.project_root() / "images")
    added = offered.read_offered(settings.state_dir)
    rows = [
        _row(settings, name, docker.inspect(name), table.get(name), added.get(name))
        for name in dict.fromkeys([*table, settings.image.name, *added])
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'IMAGE':<34} {'TORCH':<9} {'BUILD':<6} {'PYTHON':<7} {'SIZE':>8}  STATE")
    for row in rows:
        size = f"{row['size_bytes'] / GB:.2f} GB" if row["size_bytes"] else ""
        mark = " (default)" if row["default"] else f" ({row['offered']})" if row["offered"] else ""
        print(
            f"{row['name']:<34} {row['torch']:<9} {row['build']:<6} {row['python']:<7} {size:>8}  {row['state']}{mark}"
        )
    return 0


def _row(
    settings: Settings,
    name: str,
    found: ImageInfo | None,
    version: Version | None,
    added: offered.Offered | None,
) -> dict[str, Any]:
    """
    :param found: what the engine has of that name.
    :param version: its row of the table of images that are built here.
    """
    if found is None:
        state = "not built" if version else "not on the engine"
    elif version is None or RECIPE_LABEL not in found.labels:
        state = "not ours, used as it is"
    else:
        recipe = recipe_of(name, _torch(settings, name), settings.image.base or None)
        state = (
            "up to date" if found.labels[RECIPE_LABEL] == recipe.digest else "its recipe has changed since"
        )
    return {
        "name": name,
        "torch": version.torch if version else "",
        "build": version.build if version else "",
        "python": version.python if version else "",
        "size_bytes": found.size_bytes if found else 0,
        "state": state,
        "default": name == settings.image.name,
        "offered": _offered(settings, added, found.image_id if found else ""),
    }


def _offered(settings: Settings, added: offered.Offered | None, image_id: str) -> str:
    """ "" for one that users cannot choose."""
    if added is None:
        return ""
    same = settings.cluster or image_id in added.image_ids.values()
    return "offered" if same else "offered, but another image since its test: add it again"


def _torch(settings: Settings, name: str) -> str:
    """The setting speaks of the sessions' default image; the others' build stands in the table."""
    return settings.image.torch if name == settings.image.name else "auto"


def _test(args: argparse.Namespace, settings: Settings) -> int:
    checks = fitness.prove_fit(
        engine_at(settings.engine.host),
        args.name,
        settings.state_dir,
        args.gpu,
        on_check=(lambda check: None) if args.json else print_check,
    )
    failed = [check for check in checks if check.state == "failed"]
    if args.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    elif failed:
        names = ", ".join(check.name for check in failed)
        print(f"{args.name} is not fit for sessions: {names}", file=sys.stderr)
    else:
        print(f"{args.name} is fit for sessions.")
    return 1 if failed else 0


_ACTIONS = {"build": _build, "list": _list, "test": _test, "add": _add, "remove": _remove}
