"""The tables that say what models get right, for benchmarks/tables.py."""

from __future__ import annotations

from functools import reduce
from operator import getitem

from benchmarks.table_source import ROOT, markdown, percent, read

_TASKS = ("kind", "colour", "size", "material", "relations", "counting", "comparing", "which_region", "yes_no", "why",
          "describe")
_HOUSEHOLD = ("kind", "colour", "material", "state", "relations", "nearest_between", "counting", "which_region",
              "yes_no", "use_trained", "use_untrained", "describe")
#: Of every form of question about the household one example: (task, form) → (what it is about, the question).
_EXAMPLES = {
    ("kind", "kind"): ("one region", "What is region 2?"),
    ("kind", "hidden"): ("one that is hardly seen", "What is region 2?"),
    ("colour", "colour"): ("one region", "What colour is region 2?"),
    ("material", "material"): ("one region", "What is region 2 made of?"),
    ("describe", "region"): ("one region", "Describe region 2."),
    ("state", "posture"): ("its state", "Is region 2 standing or lying?"),
    ("state", "door"): ("its state", "Is region 2 open?"),
    ("state", "drawers"): ("its state", "Which drawers of region 2 are open?"),
    ("state", "contents"): ("its state", "What is in region 2?"),
    ("relations", "side"): ("where it is", "Is region 1 left or right of region 2?"),
    ("relations", "depth"): ("where it is", "Is region 1 in front of or behind region 2?"),
    ("relations", "from"): ("where it is", "Where is region 1 from region 2?"),
    ("relations", "where"): ("where it is", "Where is region 1?"),
    ("which_region", "fits"): ("which one", "Which region is the red mug?"),
    ("which_region", "state"): ("which one", "Which thing is lying on its side?"),
    ("which_region", "stands"): ("which one", "What is left of region 2?"),
    ("nearest_between", "nearer"): ("which one", "Which is closer to region 1: region 2 or region 3?"),
    ("nearest_between", "nearest"): ("which one", "What is nearest to region 1?"),
    ("nearest_between", "between"): ("which one", "What is between region 1 and region 2?"),
    ("counting", "kind"): ("how many", "How many mugs are there?"),
    ("counting", "colour"): ("how many", "How many red things are there?"),
    ("counting", "material"): ("how many", "How many things made of metal are there?"),
    ("yes_no", "kind"): ("yes or no", "Is region 2 a mug?"),
    ("yes_no", "colour"): ("yes or no", "Is region 2 red?"),
    ("yes_no", "material"): ("yes or no", "Is region 2 made of metal?"),
    ("yes_no", "posture"): ("yes or no", "Is region 2 lying on its side?"),
    ("yes_no", "stands"): ("yes or no", "Is region 1 left of region 2?"),
    ("yes_no", "next_to"): ("yes or no", "Is region 1 next to region 2?"),
    ("yes_no", "between"): ("yes or no", "Is region 1 between region 2 and region 3?"),
    ("yes_no", "exists"): ("yes or no", "Is there a mug here?"),
    ("use_trained", "use"): ("what it is for", "What is region 2 used for?"),
    ("use_trained", "need"): ("what it is for", "What would I need to brew coffee?"),
    ("use_trained", "which_edible"): ("what it is for", "Which of region 1, region 2 and region 3 is food or drink?"),
    ("use_trained", "which_fragile"): ("what it is for", "Which of region 1, region 2 and region 3 is fragile?"),
    ("use_trained", "is_edible"): ("what it is for", "Is region 2 food or drink?"),
    ("use_trained", "is_fragile"): ("what it is for", "Is region 2 fragile?"),
    ("use_untrained", "use"): ("what no training text says", "What is region 2 used for?"),
    ("use_untrained", "need"): ("what no training text says", "What would I need to cook porridge?"),
}
_FEW = 50  # answers, under which a form's figure says little


def tabletop() -> str:
    """Return the scores of the tabletop's model, with and without its region embeddings."""
    scores, hidden = read("models/tabletop/scores.json"), read("models/tabletop/scores_zero_regions.json")

    def row(name: str, key: str, count: int, constant: float | None) -> tuple[str, ...]:
        return name, percent(scores[key]), percent(hidden[key]), percent(constant), str(count)

    rows = [row(task.replace("_", " "), task, scores["counts"][task], scores["chance"][task]) for task in _TASKS]
    rows += [row(f"{task}, pairs never seen", f"held_out_{task}", scores["counts"]["held_out"], None)
             for task in ("kind", "colour")]
    head = (f"{scores['scenes']} scenes, seed {scores['seed']}", "right, %", "regions zeroed, %",
            "best constant answer, %", "questions")
    return markdown(head, rows)


def household() -> str:
    """Return the scores of the household's model: as it is, without its region embeddings, and in harder scenes."""
    runs = [read(f"models/household/scores{which}.json") for which in ("", "_zero_regions", "_jitter", "_unseen")]
    scores, _, jittered, unseen = runs

    def row(name: str, *path: str, count: int, constant: float | None = None) -> tuple[str, ...]:
        right, hidden, *harder = (percent(reduce(getitem, path, run)) for run in runs)
        return (name, right, hidden, percent(constant), *harder, str(count))

    rows = [row(task.replace("_", " "), task, count=scores["counts"][task], constant=scores["chance"][task])
            for task in _HOUSEHOLD]
    rows += [row("what descriptions state", "claims", "true", count=scores["claims"]["count"]),
             row('"I can\'t tell"', "cant_tell", "rightly", count=scores["cant_tell"]["said"])]
    new = unseen["new_kinds"]
    rows += [(f"new kinds called {what}", "", "", "", "", percent(new[key]), str(new["count"])) for key, what in
             (("named", "by their name"), ("related", "by a related one"), ("unknown", "nothing"),
              ("another", "by another"))]
    head = (f"{scores['scenes']} scenes, seed {scores['seed']}", "right, %", "regions zeroed, %",
            "best constant answer, %", f"edges of boxes moved by up to {100 * jittered['jitter']:.0f} %, %",
            "split `unseen`, %", "questions")
    return markdown(head, rows)


def household_questions() -> str:
    """Return how often the household's model is right by form of question, beside what a constant answer would be."""
    forms = read("models/household/scores.json")["forms"]
    rows = []
    for (task, form), (about, example) in _EXAMPLES.items():
        found = forms[task][form]
        if found["count"] >= _FEW:
            constant = "" if found["chance"] in (None, 1.0) else percent(found["chance"])
            rows.append((about, f'"{example}"', percent(found["fraction"]), constant, str(found["count"])))
    return markdown(("about", "such as", "right, %", "best constant answer, %", "questions"), rows)


def extractors() -> str:
    """Return what the region extractors learn and cost on the tabletop."""
    results = read("benchmarks/results/extractors.json")["tabletop"]
    rows = []
    for name, measured in results.items():
        right, small = measured["accuracy"]["all"], measured["accuracy"]["small"]
        rows.append((f"`{name.replace(' + ', '` + ')}" + ("" if " + " in name else "`"),
                     f"{100 * right['kind']:.1f}", f"{100 * small['kind']:.1f}",
                     *(f"{100 * right[attribute]:.1f}" for attribute in ("colour", "size", "material")),
                     f"{measured['parameters'] / 1e6:.2f} M", f"{measured['multiply_adds'] / 1e9:.2f} G",
                     f"{measured['time_ratio']:.2f}"))
    head = ("tabletop", "kind, %", "kind of small ones, %", "colour, %", "size, %", "material, %", "parameters",
            "multiply-adds", "time")
    return markdown(head, rows)


def extractor_costs() -> str:
    """Return what the region extractors cost at the published sizes."""
    results = read("benchmarks/results/extractors.json")["full_size"]
    rows = [(f"`{name}`", f"{measured['parameters'] / 1e6:.0f} M", f"{measured['multiply_adds'] / 1e12:.3g} T")
            for name, measured in results.items()]
    return markdown(("CLIP ViT-L/14 levels, 8 regions", "parameters", "multiply-adds"), rows)


def ablation() -> str:
    """Return what variants of the region module learn in the same short training, as mean and spread over the seeds."""
    variants = read("benchmarks/results/ablation.json")["variants"]
    tasks = tuple(next(iter(variants.values()))["mean"])
    rows = []
    for name, found in variants.items():
        cells = (f"{found['mean'][task]:.1f} ± {found['spread'][task] or 0:.1f}" for task in tasks)
        rows.append((f"`{name}`", *cells, str(found["seeds"]), f"{found['training_cpu_s']:.0f} s"))
    return markdown(("variant", *(f"{task}, %" for task in tasks), "seeds", "training, CPU time"), rows)


def retrained() -> str:
    """Return what the demonstration of retraining has measured, a row a run.

    Raises:
        FileNotFoundError: None of its files is there.
    """
    folder = "benchmarks/results/retrain_demo"
    rows = []
    for path in sorted((ROOT / folder).glob("*.json")):
        found = read(f"{folder}/{path.name}")
        right = (percent(found[key]) for key in ("new_before", "new_after", "old_before", "old_after"))
        facts = (str(found[key]) for key in ("seed", "corrections", "steps", "scenes"))
        before, again = found["swap"]["before"], found["swap"]["again"]
        back = sum(again[name] == text for name, text in before.items())
        rows.append((found.get("world", "tabletop"), *facts, *right, f"{back} of {len(before)}",
                     f"{found['minutes_by_step']['retrain']:.0f}", f"{found['minutes']:.0f}"))
    if not rows:
        raise FileNotFoundError(f"{folder}/*.json")
    return markdown(("world", "seed", "corrections", "steps", "scenes of either room", "new kinds before, %",
                     "after, %", "old kinds before, %", "after, %", "old texts back exactly",
                     "minutes of retraining", "minutes in all"), rows)


def retraining() -> str:
    """Return what a retraining takes, by the number of corrections."""
    rows = []
    for count, used in read("benchmarks/results/retraining.json")["corrections"].items():
        right = (f"{100 * used[group]['before']:.0f} → {100 * used[group]['after']:.0f}"
                 for group in ("held_out", "known"))
        rows.append((count, str(used["pictures"]), str(used["steps"]), f"{used['minutes']:.1f}",
                     f"{used['peak_mib']:.0f} MiB", *right))
    return markdown(("corrections", "pictures", "steps", "minutes", "memory at most", "of those held out right, %",
                     "of what it knew right, %"), rows)
