"""What each command can do with data sets, and what is missing for the rest, by the rules that the commands themselves have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from calibration.dataset import HOLDOUT, OTHER_PLANE, STANDARD_PLANE, UNKNOWN, Dataset
from calibration.honesty import MIN_EACH
from calibration.inspected import EVERY, Held, inspect, pairs_of
from calibration.leakage import Pair, assign_folds, check_folds, leaks, patient_groups
from calibration.naming import some
from calibration.open_dataset import open_datasets
from edge.errors import InputError
from export.data import Data, lacks, require_learnable
from export.recipe import Recipe, TeacherRecipe
from export.training.systems import RANDOM

SEED = 0  # of the folds, as every command has it unless it is told otherwise
PLANE_PATIENTS = 4  # with standard planes and with others, that `adapt` fits a plane head on: one a fold
HOW = "docs/data.md says what adds it"
FIRST = "what is wrong, above, comes first"


@dataclass(frozen=True)
class Use:
    """says: what it would do, or what is missing and how to add it."""

    command: str
    can: bool
    says: str


@dataclass(frozen=True)
class Checked:
    """costs: what is absent, and what an export would not know for it."""

    sets: list[Held]
    faults: list[str]
    uses: list[Use]
    costs: list[str]

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "sound": not self.faults}

    def text(self) -> str:
        """For a terminal."""
        out: list[str] = []
        for held in self.sets:
            out += [*_described(held), ""]
        if self.faults:
            out += ["WRONG", *(f"  {fault}" for fault in self.faults), ""]
        out.append("What can be done with it")
        out += [f"  {use.command:<12}{'yes' if use.can else 'no '}  {use.says}" for use in self.uses]
        if self.costs:
            out += ["", f"What an export of it would lack, and what that costs ({HOW})", *(f"  {cost}" for cost in self.costs)]
        return "\n".join(out)


def check_data(
    sources: Sequence[Path], positive: str, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Checked:
    """Several sources are taken as the data of one recipe. Nothing is raised for what is wrong: it is said."""
    found = [inspect(source, positive, on_step) for source in sources]
    faults = [fault for one in found for fault in one.faults]
    sets: list[Dataset] = []
    if not faults:
        try:
            sets = open_datasets(sources, positive)
        except InputError as error:
            faults.append(str(error))
    nuchal = [one for one in found if one.data is not None and not one.data.elsewhere]
    data, pairs = Data(sets), pairs_of([hashed for one in nuchal for hashed in one.hashes])
    groups: list[str] = []
    if sets and nuchal:
        if len(nuchal) > 1:
            faults += leaks(data.nuchal, pairs, EVERY)
        if not faults:
            groups = patient_groups(data.nuchal, pairs)
            try:
                if not _too_few(data, groups):  # too few to train on is no fault of the table's
                    assign_folds(data.nuchal, groups, SEED)
            except InputError as error:
                faults.append(str(error))
    held = [one.held for one in found if one.held is not None]
    if faults:
        return Checked(held, faults, [Use(name, False, FIRST) for name in COMMANDS], [])
    recipe = Recipe([str(source) for source in sources], "", "", "", TeacherRecipe(RANDOM))
    uses = [Use(name, *rule(data, groups, recipe, pairs)) for name, rule in COMMANDS.items()]
    can_export = any(use.can for use in uses if use.command == "export")
    return Checked(held, faults, uses, lacks(data, recipe) if can_export else [])


def _too_few(data: Data, groups: Sequence[str]) -> bool:
    trained = {group for group, image in zip(groups, data.nuchal.images, strict=True) if image.fold != HOLDOUT}
    return len(trained) < PLANE_PATIENTS


# -- the commands' rules: whether, and what to say ----------------------------------------------------------------------

Ruling = tuple[bool, str]


def _refused(rule: Callable[[], object]) -> str:
    """What a command would say; "" where it would not refuse."""
    try:
        rule()
    except InputError as error:
        return str(error)
    return ""


def _folds(data: Data, groups: Sequence[str], among: Callable[[float], bool] = lambda plane: True) -> None:
    """As a command that judges images with a finding deals and checks folds. InputError."""
    nuchal = data.nuchal
    keep = [
        i
        for i, image in enumerate(nuchal.images)
        if image.hygroma != UNKNOWN and image.fold != HOLDOUT and among(image.plane)
    ]
    judged, own = replace(nuchal, images=[nuchal.images[i] for i in keep]), [groups[i] for i in keep]
    judged.with_findings()
    check_folds(judged, own, assign_folds(judged, own, SEED))


def _export(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    def rule() -> None:
        require_learnable(data, recipe)
        assign_folds(data.nuchal, groups, SEED)
        if data.stands_on_real:
            _folds(data, groups)

    real = "real hygromas" if data.stands_on_real else "simulated collections"
    return (False, no) if (no := _refused(rule)) else (True, f"the gate and the operating point stand on {real}")


def _crossval(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    if not data.stills:
        return False, "other anatomy alone; name a data set with images of both findings too"
    if no := _refused(lambda: _folds(data, groups)):
        return False, no
    return True, f"{sum(image.hygroma != UNKNOWN for image in data.trained)} images with a finding, in four folds"


def _explain(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    can, says = _crossval(data, groups, recipe, pairs)
    boxes = sum(image.nt_box is not None for image in data.trained)
    if not can:
        return False, says
    more = "" if boxes else ": add some, or give --boxes"
    return True, f"of a finished crossval; {boxes} images have nt_box, by which maps are judged{more}"


def _adapt(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    if not data.stills:
        return False, "other anatomy alone; name a data set with images of both findings"
    if no := _refused(lambda: _folds(data, groups, lambda plane: plane != OTHER_PLANE)):
        return False, no
    trained = [(group, image.plane) for group, image in zip(groups, data.stills, strict=True) if image.fold != HOLDOUT]
    of = {
        name: len({group for group, shown in trained if shown == plane})
        for plane, name in ((STANDARD_PLANE, "standard"), (OTHER_PLANE, "other"))
    }
    if short := [f"{n} with plane {name}" for name, n in of.items() if n < PLANE_PATIENTS]:
        return True, f"the hygroma head; the plane head stays: {some(short)}, {PLANE_PATIENTS} patients are needed: fill in plane"
    return True, "the hygroma head and the plane head"


def _lesions(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    n, least = sum(image.editable for image in data.stills), 2 * MIN_EACH
    if n < least:
        return False, (
            f"{n} healthy standard planes with nt_box and thalami_box, {least} are needed: fill in hygroma 0, plane standard and "
            "both boxes"
        )
    return True, f"{n} healthy standard planes with both boxes"


def _pretrain(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    n = sum(image.fold != HOLDOUT for found in data.sets for image in found.images)
    return (True, f"{n} images that are not held out") if n else (False, "all images are held out; give some to train on")


def _replay(data: Data, groups: Sequence[str], recipe: Recipe, pairs: Sequence[Pair]) -> Ruling:
    n = sum(len(found.images) for found in data.sets)
    return True, f"{n} images decode: `hygroma score FOLDER`, `hygroma run --source images:FOLDER`"


COMMANDS: dict[str, Callable[[Data, Sequence[str], Recipe, Sequence[Pair]], Ruling]] = {
    "crossval": _crossval,
    "compare": _crossval,
    "explain": _explain,
    "adapt": _adapt,
    "export": _export,
    "sensitivity": _export,
    "ladder": _export,
    "lesions": _lesions,
    "pretrain": _pretrain,
    "replay": _replay,
}


# -- in words -----------------------------------------------------------------------------------------------------------


def _described(held: Held) -> list[str]:
    whose = "nobody said whose: each counts as a patient of its own" if held.patients is None else f"{held.patients} patients"
    lines = [f"{held.source} ({held.kind}): {held.images} images, {whose}"]
    sizes = "none decodes" if not held.sizes else " to ".join(f"{width} x {height}" for width, height in held.sizes) + " pixels"
    rows = {
        "origin": held.origin or "not told: a file NAME.source.yaml beside it may",
        "findings": _listed(held.findings),
        "planes": _listed(held.planes),
        "split": _listed(held.splits),
        "sites": _listed(held.sites) or "not told",
        "scanners": _listed(held.scanners) or "not told",
        "of these": _listed(held.boxes),
        "sizes": sizes + (f"; {held.unreadable} do not decode" if held.unreadable else ""),
        "copies": f"{len(held.copies)} pairs: {some(held.copies)}" if held.copies else "none",
    }
    return lines + [f"  {name:<10}{text}" for name, text in rows.items()]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
