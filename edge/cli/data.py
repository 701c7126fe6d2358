"""The command `data`: `import` makes a data set of a public download, `check` says what a data set holds and is good for."""

from __future__ import annotations

import argparse
import json
from importlib import import_module

from edge.cli.common import Parser, Progress, require_writable, tell, toolchain
from edge.errors import InputError

IMPORTERS = {  # name -> what it is
    "fetus-framework": "Dataset for Fetus Framework, Mendeley Data n2rbrb9t4f: first-trimester nuchal views",
    "hc18": "HC18, Zenodo 1327317: axial fetal heads, other anatomy",
}


def _add_data(data: Parser) -> None:
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION")
    take = actions.add_parser("import", help="a public data set's download, as a table with the shipped bundle's own folds")
    take.description = (
        "Writes OUT/NAME.csv, its stills (grey, 512 pixels at most, as those that the shipped bundle was made of) and "
        "OUT/NAME.source.yaml with authors and licence. The download stays as it is. Several data sets may share OUT. NAME: "
        + "; ".join(f"{name} ({what})" for name, what in IMPORTERS.items()) + "."
    )
    take.epilog = "docs/shipped-data.md says how the shipped bundle is made again of them."
    take.add_argument("name", choices=IMPORTERS, metavar="NAME", help=" or ".join(IMPORTERS))
    take.add_path("download", "DOWNLOAD", "the folder of the download, unpacked")
    take.add_path("--out", "OUT", "where the table and its stills go", required=True)
    take.add_flag("--force", "write over a table that is there")
    take.set_defaults(handler=_import)
    check = actions.add_parser("check", help="what data sets hold, what can be done with them, and what is wrong")
    check.description = (
        "Opens data sets as every command does, and decodes each image. Says what they hold, what each command can do with "
        "them, and what is missing for the rest. Several are taken as one recipe's. Exit code 66 when a command would refuse "
        "them: everything that is wrong is named."
    )
    check.epilog = "docs/data.md is the whole contract."
    check.add_path("data", "DATA", "folders of a folder per class, or tables", nargs="+")
    check.add_argument("--positive", default="hygroma", metavar="CLASS", help="the positive folder (default: hygroma)")
    check.set_defaults(handler=_check)
    for action in (take, check):
        action.add_json()


def _import(args: argparse.Namespace) -> int:
    with toolchain():
        module = import_module(f"calibration.importers.{args.name.replace('-', '_')}")
    require_writable(args.out, "--out")
    progress = Progress()
    found = getattr(module, f"import_{args.name.replace('-', '_')}")(
        args.download, args.out, args.force, lambda done, total: progress("images", done, total)
    )
    progress.clear()
    split = ", ".join(f"{number} {kind}" for kind, number in found.images.items() if number)
    return tell(args, found.to_dict(), lambda: "\n".join([f"{found.table}: {split}", *found.notes]))


def _check(args: argparse.Namespace) -> int:
    with toolchain():
        from export.site.check import check_data
    progress = Progress()
    found = check_data(args.data, args.positive, lambda done, total: progress("images", done, total))
    progress.clear()
    print(json.dumps(found.to_dict()) if args.json else found.text())
    return InputError.exit_code if found.faults else 0


COMMANDS = {"data": _add_data}
