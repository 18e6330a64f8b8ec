"""Write measured figures into the documents.

    python -m benchmarks.tables            # rewrites README.md and docs/*.md
    python -m benchmarks.tables --check    # changes nothing; status 1 where a table is not what the JSON files say

Between `<!-- table: NAME -->` and `<!-- end -->` stands what TABLES[NAME] makes of committed JSON files, so that a
figure in the documents is always one that was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.model_tables import (
    ablation,
    extractor_costs,
    extractors,
    household,
    household_questions,
    retrained,
    retraining,
    tabletop,
)
from benchmarks.table_source import ROOT, markdown, percent, read

RESULTS = ROOT / "benchmarks" / "results"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def headlines(folder: Path = RESULTS) -> str:
    """Return the numbers at the top level of every result file, with the machine that gave them.

    Raises:
        ValueError: a file is not a JSON object; the text names it.
    """
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            numbers = {name: value for name, value in results.items()
                       if isinstance(value, (int, float)) and not isinstance(value, bool)}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: expected a JSON object ({error})") from error
        machine = results.get("machine", {})
        where = machine.get("gpu") or f"{machine.get('cpu', '?')}, {machine.get('threads', '?')} threads"
        rows += [(path.stem, name, f"{value:.3g}", where) for name, value in numbers.items()]
    return markdown(("benchmark", "figure", "value", "machine"), rows)


def speed() -> str:
    """Return the latencies of the whole node with the tabletop's model."""
    return _latencies("benchmarks/results/end_to_end.json")


def speed_household() -> str:
    """Return the same with the household's model."""
    return _latencies("benchmarks/results/end_to_end_household.json")


def _latencies(path: str) -> str:
    results = read(path)
    alone, asked, steady = results["one_at_a_time"], results["questions"], results["at_rate"]
    width, height = results["image"]

    def row(name: str, measured: dict[str, float]) -> tuple[str, ...]:
        return (name, *(f"{measured[key]:.0f} ms" for key in ("median", "p95", "most")))

    rows = [row(f"{results['regions']} descriptions of a {width}×{height} frame, from its stamp", alone["total_ms"]),
            row("the same by the published procedure, one conversation a region", alone["published_ms"]),
            row(f"descriptions at {steady['rate_hz']:.0f} frames a second, unchanged regions keep their text",
                steady["latency_ms"]),
            row("first words of an answer", asked["first_words_ms"]), row("whole answer", asked["whole_answer_ms"])]
    return markdown(("through the node, over DDS", "median", "95th percentile", "longest"), rows)


def vision() -> str:
    """Return the vision stage's times by backend."""
    results = read("benchmarks/results/vision_stage.json")
    backends = ("published", "torch", "compiled", "onnxruntime")
    rows = []
    for name in ("tabletop", "gpt4roi-7b", "gpt4roi-7b-lite"):
        for count in (1, 8, 64):
            measured = results[name][f"{count} regions"]
            times = [measured["seconds"][backend] for backend in backends] + [measured["floor"]["seconds"]]
            rows.append((f"`{name}`", str(count), *(f"{seconds:.3g} s" for seconds in times)))
    head = ("model", "regions", "published way, eager PyTorch", "PyTorch", "compiled", "ONNX Runtime",
            "the operations alone")
    return markdown(head, rows)


def language() -> str:
    """Return the language stage's speed by number format, against the published procedure."""
    results = read("benchmarks/results/language_stage.json")
    rows = []
    for key in ("random", "tabletop"):
        model = results[key]
        for name in model["formats"]:
            measured = model["published"][name]
            rows.append((f"{model['parameters'] / 1e6:.0f} M", name, f"{measured['seconds']:.3g} s",
                         f"{measured['published_seconds']:.3g} s", f"{measured['speed']:.1f}",
                         "yes" if measured["same_text"] == 1 else "no"))
    head = ("parameters", "format", "8 regions", "published procedure, fp32", "times as fast", "same text")
    return markdown(head, rows)


def llama_cpp() -> str:
    """Return the comparison of the language stage with llama.cpp."""
    results = read("benchmarks/results/language_stage.json") | {
        "household": read("benchmarks/results/language_stage_household.json")["household"]}
    rows = []
    for key in ("random", "household", "tabletop"):
        for name, what in (("batch", "8 regions"), ("single", "one question")):
            measured = results[key]["llama_cpp"][name]
            ours, theirs = measured["ours"], measured["theirs"]
            rows.append((f"{results[key]['parameters'] / 1e6:.0f} M", what,
                         f"{measured['seconds'][ours]:.3g} s ({ours})",
                         f"{measured['seconds'][theirs]:.3g} s ({theirs.removeprefix('llama.cpp ')})",
                         f"{measured['speed']:.2f}"))
    return markdown(("parameters", "task", "ours, best format", "llama.cpp, best format", "times as fast"), rows)


def formats() -> str:
    """Return what each number format costs in right answers, and what keeping descriptions costs."""
    rows = [(name, f"{measured['right_percent']:.1f}", f"{measured['same_as_fp32_percent']:.1f}",
             str(measured["questions"]), f"{1000 * measured['frame_s']:.0f} ms",
             f"{1000 * measured['question_s']:.0f} ms")
            for name, measured in read("benchmarks/results/language_quality.json")["formats"].items()]
    return markdown(("format", "right, %", "same words as fp32, %", "questions", "a frame", "a question"), rows)


def loading() -> str:
    """Return the memory and time that loading a model takes, by number format."""
    results = read("benchmarks/results/loading.json")
    rows = [(name, f"{measured['weights_bytes'] / 1e9:.2f} GB", which, f"{measured['most_bytes'] / 1e9:.2f} GB",
             f"{measured['program_bytes'] / 1e9:.2f} GB", f"{measured['seconds']:.0f} s")
            for name, starts in results["formats"].items()
            for which, measured in (starts.items() if "later" in starts else [("every", starts["first"])])]
    return markdown((f"{results['parameters'] / 1e9:.1f} G parameters, {results['stored_bytes'] / 1e9:.2f} GB on disk",
                     "weights in memory", "start", "most memory", "of it the program's before loading", "time"), rows)


def reuse() -> str:
    """Return how often a description that was kept is wrong."""
    measured = read("benchmarks/results/language_quality.json")["reuse"]
    rows = [(f"{measured['distance']:g}", str(measured["texts"]), f"{measured['decodes_saved_percent']:.0f}",
             f"{measured['kept_wrong_percent']:.1f}", f"{measured['fresh_wrong_percent']:.1f}")]
    head = ("distance of embeddings below which a text is kept", "texts", "decodes saved, %", "kept texts wrong, %",
            "fresh texts wrong, %")
    return markdown(head, rows)


def training() -> str:
    """Return the speed of training stage 2 of the tabletop's model."""
    results = read("benchmarks/results/training.json")
    rows = [(data, processes.partition(" ")[0], f"{measured['samples_per_second']:.1f}",
             f"{100 * measured['data_wait']:.1f}", f"{measured['memory_gib']:.1f} GiB")
            for data in ("tabletop", "jpeg", "shards") for processes, measured in results[data].items()]
    return markdown(("data", "processes", "samples a second", "waiting for data, %", "memory of a process"), rows)


def bags() -> str:
    """Return what the conversion of bags of several sizes takes."""
    rows = [(f"{size} GB", str(used["frames"]), f"{used['peak_mib']:.0f} MiB", f"{used['minutes']:.1f}")
            for size, used in read("benchmarks/results/from_bag.json")["bags"].items()]
    return markdown(("bag", "frames", "memory at most", "minutes"), rows)


def swap_pause() -> str:
    """Return the gaps in the stream of descriptions when the model is changed."""
    found = read("benchmarks/results/swap_pause.json")
    rows = [(name, *(f"{found[key][value]:.0f} ms" for value in ("median", "p95", "most")))
            for name, key in (("usually", "usual_ms"), ("while the new model is loaded and asked", "while_loading_ms"))]
    rows += [(name, f"{found[f'{key}_ms']:.0f} ms", "", f"{found[f'{key}_over_usual']:.1f} times the usual")
             for name, key in (("at the change", "change"), ("at the rollback", "rollback"))]
    return markdown(("from one description message to the next", "median", "95th percentile", "longest"), rows)


def malformed() -> str:
    """Return what malformed messages were sent, and what became of them."""
    results = read("benchmarks/results/malformed_messages.json")
    rows = []
    for name, kinds in results["inputs"].items():
        outcomes: Counter[str] = Counter()
        for counts in kinds.values():
            outcomes.update(counts)
        rows.append((f"`{name}`", str(len(kinds)), str(outcomes.total()), _listed(outcomes)))
    rows.append(("all", str(sum(map(len, results["inputs"].values()))), str(results["messages"]),
                 f"of {results['known_good']} known answers in between, {results['known_good_right']} were right"))
    first = results["node"]["memory_threads_descriptors"][0][0][0]
    rows.append(("resident memory", "", "",
                 f"{first:.0f} MiB after the first hundred, at most {results['node']['peak_mib']:.0f} MiB"))
    return markdown(("input", "kinds", "messages", "what became of them"), rows)


def soak() -> str:
    """Return what was asked in many minutes, and what the node held."""
    results = read("benchmarks/results/soak.json")
    node = results["node"]
    rows = [("asked", _listed(results["asked"])), ("answered", _listed(results["answered"])),
            ("resident memory", f"{node['memory_mib']:.0f} MiB, rise at most {results['memory_rise_percent']:.2f} %"),
            ("threads, file descriptors", f"{node['threads']}, {node['file_descriptors']}, constant")]
    return markdown((f"{results['minutes']:g} minutes", ""), rows)


def console() -> str:
    """Return how fast the web console answers, and what browsers that watch cost."""
    results = read("benchmarks/results/console.json")
    rows = [(name, f"{results[key]:.0f} ms", f"{results['p95_ms'][what]:.0f} ms")
            for name, key, what in (("click → first word in the page", "click_to_first_word_ms", "click"),
                                    ("question → first word in the page", "question_to_first_word_ms", "question"),
                                    ("the same question through the action", "action_to_first_word_ms", "action"))]
    return markdown(("", "median", "95th percentile"), rows)


def browsers() -> str:
    """Return the CPU that the node and the web console take with some browsers that watch."""
    rows = [(count, f"{used['node_percent']:.0f}", f"{used['console_percent']:.0f}")
            for count, used in read("benchmarks/results/console.json")["cpu_by_browsers"].items()]
    return markdown(("browsers", "node, % of a core", "console, % of a core"), rows)


def speech() -> str:
    """Return how many spoken sentences were understood, and the recognisers' word error rates."""
    recognisers = read("benchmarks/results/speech.json")["recognisers"]
    first, rows = next(iter(recognisers.values()))["conditions"], []
    for name, figures in first.items():
        key = "understood" if "understood" in figures else "accepted"
        rates = (percent(measured["conditions"].get(name, {}).get("word_error_rate"))
                 for measured in recognisers.values())
        rows.append((f"`{name}`", str(figures["sentences"]), percent(figures.get(key)),
                     percent(figures.get("held_out")), *rates))
    head = ("condition", "sentences", "understood (`no_questions`: taken for one), %", "of those held out, %",
            *(f"word errors of {name}, %" for name in recognisers))
    return markdown(head, rows)


def speech_times() -> str:
    """Return how long the stages from a question's end to the answer's first word take, and what recognisers hold."""
    recognisers = read("benchmarks/results/speech.json")["recognisers"]
    stages = (("endpoint_s", "the end of speech is sure"), ("recognition_s", "recognition alone"),
              ("words_s", "end of speech → words"), ("first_word_of_answer_s", "words → first word of the answer"),
              ("to_first_word_s", "end of speech → first word of the answer"))
    rows = [(what, *(f"{measured['times'][key]['median']:.2f} s ({measured['times'][key]['p95']:.2f} s)"
                     for measured in recognisers.values())) for key, what in stages]
    rows.append(("real-time factor", *(f"{measured['times']['real_time_factor']['median']:.2f}"
                                       for measured in recognisers.values())))
    rows.append(("memory", *(f"{measured['memory_mib']:.0f} MiB" for measured in recognisers.values())))
    return markdown(("median (95th percentile)", *recognisers), rows)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def remote_fleet() -> str:
    """Return what came of several robots on one server."""
    results = read("benchmarks/results/remote_fleet.json")
    return markdown(("robots", "frames", "regions of each", "lost", "evenness of shares", "texts a second",
                     "a frame, median", "longest", "an answer, median", "longest"),
                    [(f"{results['robots']}", f"{results['robots'] * results['frames_each']}", f"{results['regions']}",
                      f"{results['lost']}", f"{results['fairness']:.2f}", f"{results['texts_a_second']:.1f}",
                      *(f"{results[f'{what}_{which}_s']:.1f} s" for what in ("frame", "answer")
                        for which in ("median", "longest")))])


def qwen3_vl() -> str:
    """Return how Qwen3-VL's shape runs here, by transformers and by llama.cpp: eight regions, and one question."""
    results = read("benchmarks/results/qwen3_vl.json")
    rows = []
    for load, what in (("regions", "8 regions"), ("question", "1 question")):
        for name, found in results["compared"][load].items():
            held = f"{results['most_bytes'][name] / 1e9:.1f} GB" if load == "regions" else ""
            rows.append((what, name, *(f"{found[key]:.2f} s" for key in ("encoder_s", "first_token_s", "total_s")),
                         f"{found['tokens_per_s']:.1f}", f"{100 * found['same_text']:.0f}", held))
    return markdown(("task", "side", "encoder", "until all have a token", "whole", "tokens a second",
                     "texts as transformers', %", "most memory"), rows)


def qwen3_vl_together() -> str:
    """Return what N regions of one picture take, over N times what one takes."""
    results = read("benchmarks/results/qwen3_vl.json")["together"]
    return markdown(("regions of one picture", *(f"{name}, of one at a time" for name in results)),
                    [(count, *(f"{found[count]['seconds']:.2f} s, {100 * found[count]['over_one_at_a_time']:.0f} %"
                               for found in results.values())) for count in next(iter(results.values()))])


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table for table in (headlines, speed, speed_household, vision, language, llama_cpp, formats,
                                        loading, reuse, training, bags, retrained, retraining, swap_pause, tabletop,
                                        household, household_questions, extractors, extractor_costs, malformed, soak,
                                        console, browsers, ablation, speech, speech_times, remote_fleet, qwen3_vl,
                                        qwen3_vl_together)}


def fill(text: str) -> str:
    """Return the text with every marked table made anew. Raises KeyError for an unknown name."""
    return _PLACE.sub(lambda place: place.group(1) + TABLES[place.group(2)]() + place.group(3), text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the documents; return 1 where a table is unknown, its file is missing, or a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where a table is out of date")
    options = parser.parse_args(arguments)
    stale = False
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        try:
            new = fill(text)
        except (KeyError, OSError, ValueError) as error:
            print(f"error: {path}: no table or figure {error}", file=sys.stderr)
            return 1
        if new == text:
            continue
        stale = True
        if options.check:
            print(f"{path}: out of date; run python -m benchmarks.tables", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
