"""What honed does, feature by feature, and the tests that show it: docs/features.md is written from here.

A test names what it shows: `@pytest.mark.feature("SE-060", "SE-061")`. A new feature is a line in
`AREAS` and a mark on its test; tests/house/test_features.py says what is missing. Then:

    python -m tests.features > docs/features.md
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "docs" / "features.md"

AREAS: Final[dict[str, dict[str, str]]] = {
    "Records": {
        "SE-038": "Each type of event is kept as its own kind of record; a record's JSON names its `type` and reads"
        " back equal.",
        "SE-039": "An action's record has every field of the event: output, discoveries, share of the goal and what"
        " led to the choice included; what was left out has a stated default.",
        "SE-040": "A model call succeeded when it has no error and answered with a text or a tool call.",
        "SE-041": "Of a dependency-graph inference, prompt, answer and both orders are kept; in a preference row the"
        " prompt and the answer are word for word those of the record, and its orders decide which answer is chosen.",
        "SE-042": "A strategy advice keeps its fourteen fields, and recommends a change exactly when it says that one"
        " should be made.",
        "SE-043": "The statistics of a session become a record, and come out of the store again as the snapshot of"
        " that session.",
        "SE-044": "The records of one kind are picked out of many with their type and order kept.",
        "SE-045": "Records split by worker are a partition: each is in one part, in order; those without a worker"
        " are a part of their own.",
        "SE-046": "Every type of event has one conversion into a record, and no two share one; a new type without"
        " one fails the test.",
    },
    "Episodes": {
        "SE-047": "An episode is made by naming its parts; one that nobody has judged has the outcome unknown.",
        "SE-048": "An episode reads back equal from its JSON, id and metadata included.",
        "SE-049": "An episode holds its records in order of arrival and gives those of one kind in that order.",
        "SE-050": "10,000 ids made while the clock steps back are unique and rise; two processes, forked ones too,"
        " make different ones.",
        "SE-051": "Scenario, worker, adapter, time and tags of an episode are kept; scenario, worker and time can be"
        " asked for.",
        "SE-052": "A learn model may bring an episode class of its own: it is stored, read back, converted, and an"
        " adapter is trained on it.",
        "SE-053": "Success, failure, timeout and unknown each have a JSON form and a score between 0 and 1; a verdict"
        " that comes later is added to the earlier ones, and the next training goes by it.",
    },
    "Training data": {
        "SE-054": "Conversations to imitate, pairs of answers and labelled answers are written as the rows that TRL"
        " reads.",
        "SE-055": "Plain texts make a conversation or a pair in one call; a pair with an empty side is refused.",
        "SE-056": "Line n of the file beside the training data tells where line n of the data comes from; a trained"
        " adapter names its episodes, and they can be read again.",
        "SE-057": "Without a system text there is no system turn; the file has one JSON object a line.",
        "SE-058": "A turn of the assistant or the system without text and without a tool call is refused by its"
        " place.",
        "SE-059": "A turn of an unknown role is refused by its place.",
    },
    "Store": {
        "SE-060": "An episode that was added comes back as it was built.",
        "SE-061": "An episode is found by its id; an id that is not there is an error of its own.",
        "SE-062": "Whole episodes are read in the order of their ids, page by page, while new ones arrive.",
        "SE-063": "Episodes are counted by the same filters; of 1,000 added at once none is lost.",
        "SE-064": "10,000 episodes are listed without reading one of their records.",
        "SE-065": "Each filter of episodes works alone, and all of them together; a lowest score is one of them.",
        "SE-066": "Pages of episodes neither overlap nor leave a gap.",
        "SE-067": "An episode, its records and the links between them are stored in one transaction, or not at all.",
        "SE-068": "An episode whose record is gone is reported by its id, with both counts.",
        "SE-069": "Records that are added get rising ids in the order in which they came.",
        "SE-070": "Records are read by their ids; unknown ids are skipped.",
        "SE-071": "Each filter of records works alone, and all of them together.",
        "SE-072": "Records are counted by the same filters.",
        "SE-073": "Records are listed without their bodies.",
        "SE-074": "A kill at any moment costs only what was not acknowledged yet.",
        "SE-075": "A file that cannot be read and a schema that is too new are errors of their own; they name the"
        " path, or both versions.",
        "SE-076": "What is not there is an error of its own, with the id that was asked for.",
        "SE-077": "A trained adapter is registered once, under an id that is never given again.",
        "SE-078": "A registered adapter is found by its id.",
        "SE-079": "The newest adapter of a learn model is found.",
        "SE-080": "Adapters are found by learn model, base model, method and time.",
        "SE-081": "Adapters are listed newest first.",
        "SE-082": "Deleting an adapter keeps its files unless they are asked to go too; one that serves, or that"
        " `honed rollback` may go back to, stays.",
        "SE-083": "What was not measured of a training is null, never 0.",
    },
    "Learn models": {
        "SE-084": "What is learned is chosen by name: a built-in learn model, or a class of one's own as"
        " `package.module:Class`; what such a class lacks is said when the daemon starts.",
        "SE-085": "An episode that gives no row is an error that names it, whatever its learn model raised; the batch"
        " goes on.",
        "SE-086": "`worker_task` groups actions by task, `done` ends a task, and tasks with fewer than two actions are"
        " dropped and counted.",
        "SE-087": "`worker_decision_sequence` leaves the engine's own events out and parts with fewer than three"
        " actions; its prompt lists what could be done, its answer what was done, in order.",
        "SE-088": "`dependency_graph` makes a row of each inference, prompt and answer word for word; an inference that"
        " failed or contradicts itself is a failure.",
        "SE-089": "`dpo` pairs attempts of one group at the same prompt, the one with the higher score chosen; what is"
        " compared is said by an extractor of one's own, or by the learn model that it wraps.",
        "SE-090": "The least gap between two scores, the number of pairs and whether an attempt may be in several of"
        " them can be set.",
        "SE-091": "A pair's quality gap is the difference of the two scores.",
        "SE-092": "The training file holds the rows that the learn model's `convert` gives and no other; where it gives"
        " none, the training is skipped with the reasons counted.",
    },
    "When to learn": {
        "SE-093": "A rule says yes or no, its name, its text, and on a tree of lines why; its text reads back to an"
        " equal rule.",
        "SE-094": "The facts that a rule judges come from counters, and from indexes alone; facts that cannot be read"
        " are an error of their own.",
        "SE-095": "The success rates that a rule sees, recent and overall, equal a count by hand.",
        "SE-096": "When the store fails while a rule is judged, the log says so and the loop goes on.",
        "SE-097": "`count(n)` fires with the n-th episode since the last training and not before, across restarts too.",
        "SE-098": "`every(...)` fires when the last training, else the first start, is so long ago; a restart does not"
        " reset it.",
        "SE-099": "`quality(...)` fires at or under its rate, on enough outcomes since the last training; without"
        " them it is silent.",
        "SE-100": "`|` fires when any part does; it is flat, and of nothing it never fires.",
        "SE-101": "`&` fires when all parts do; it is flat, binds tighter than `|`, and of nothing it never fires.",
        "SE-102": "`manual()` never fires; `train-now` trains.",
        "SE-103": "`never()` never fires; `train-now` trains.",
        "SE-104": "`always()` trains once for what is new.",
        "SE-105": "Every form of a rule is read from text and table; the default is 100 episodes or one hour.",
    },
    "Intake": {
        "SE-129": "The queue in front of the store has a limit in events and bytes; whoever cannot wait loses"
        " events, and they are counted.",
        "SE-139": "Records are kept even when no episode comes of them.",
        "SE-140": "One episode may span several batches, and a restart.",
        "SE-141": "What the daemon counts is what the store holds.",
        "SE-142": "What waits on a bus goes to the store as one batch, whatever is there, up to a limit in events"
        " and in bytes; no batch waits until it is full.",
        "SE-143": "When a bus is closed, what waits is stored first.",
        "SE-144": "What a listener was too slow for is counted.",
        "SE-145": "Socket, HTTP, files, command line and a bus in the same process give equal rows; what is"
        " repeated at another door is known.",
    },
    "Daemon": {
        "SE-127": "Under load a daemon takes events in, trains, puts the adapter into service and stops clean; nothing"
        " that was acknowledged is missing.",
        "SE-128": "A daemon in a program is made from its config, and every part of it can be replaced by keyword.",
        "SE-130": "The first signal closes the sources, commits what came and waits for the worker; the second one"
        " ends both at once, with 128 + signal. From a program any thread may ask it to stop, and nobody waits for"
        " that.",
        "SE-131": "A training can be asked for past the trigger; what it made, and what it did not and why, comes"
        " back.",
        "SE-132": "An adapter is put into service by its id, whatever `apply.mode` says.",
        "SE-133": "A daemon with its store in memory works whole and leaves no database; one without a scenario is"
        " refused.",
        "SE-134": "The config is a TOML file over which the environment wins; all defaults can be printed, and each"
        " value with where it comes from.",
        "SE-135": "What a daemon has done is counted, and right after a scripted run: records, episodes, trainings,"
        " applied adapters, the last training, the start.",
        "SE-136": "An error is told by its kind; a run that fails, by whatever error, does not end the daemon.",
        "SE-137": "When it trained and on how much, the back-off and the history of adapters survive kill -9.",
        "SE-138": "One training at a time, and one daemon on a folder; a second one of either is refused or waits.",
        "SE-146": "A mode needs only its own parts: `offline` runs without a base model; `lora` and `full` without one"
        " are refused at start.",
        "SE-147": "What a run does is one of offline, lora and full; where nothing else is said it is full with a base"
        " model, else offline, which trains nothing and says so.",
        "SE-148": "A mode has six spellings in any case; anything else is refused with the nearest.",
        "SE-149": "The result of a run says its mode, what was made, and why the rest was not.",
        "SE-150": "A missing part is an error at start and never a failed training; a half that failed does not hide"
        " the other.",
    },
    "Events": {
        "SE-206": "An action event reads back equal from its JSON; keys that are not known are ignored.",
        "SE-207": "Tick, worker and sequence are packed into 16 hex digits and come back; the order of the texts is"
        " that of the ticks.",
        "SE-208": "A field that is missing or of another type is refused, with its path.",
        "SE-209": "There are three events of learning: advice on the strategy, inference of a dependency graph, and"
        " the statistics of a session.",
        "SE-210": "Publishing to a bus never blocks, and nobody need listen; the bus for events of learning is off"
        " until it is turned on.",
        "SE-211": "A slow listener of a bus loses its oldest events, and they are counted; the others lose none.",
        "SE-214": "Visits, successes and failures of all actions, of each, and of each on a target are counted right"
        " while a swarm runs, with learning off too.",
    },
    "Before a stand-alone run": {
        "TR-001": "Pre-flight fails without the training file, and names the path that it looked for.",
        "TR-002": "A line that is no row fails by its number, with the advice to convert it in the format step.",
        "TR-003": "Fewer than 100 rows fail, fewer than 1,000 warn.",
        "TR-004": "A validation split is found beside the training file or where it is named; without one there is a"
        " warning.",
        "TR-005": "The memory of the GPU is told, free and all; too little for the model fails, and where lower"
        " settings help they are named.",
        "TR-006": "The report says what torch was built for and sees; a card that it does not see fails.",
        "TR-007": "The config file is told with what it sets, else the defaults that hold; its faults fail.",
        "TR-008": "Whether the model fits is looked up by card and name, else estimated; nothing is claimed of what is"
        " not known.",
        "TR-009": "A missing baseline fails unless that is allowed; one of another test set is told.",
        "TR-010": "One command makes all nine checks, and none takes another along.",
        "TR-011": "A card of 8 GB: a 4b model, batch 1, accumulation 8, r 8, length 1024.",
        "TR-012": "A card of 12 GB: a 4b model by the defaults.",
        "TR-013": "A card of 16 GB: a 12b model with r 16.",
        "TR-014": "A card of 24 GB and more: a 27b model with r 32 and length 4096.",
        "TR-015": "Without a GPU a tiny model is proposed, fits, and is trained.",
    },
    "Training": {
        "SE-106": "The settings of a training by a script are thirteen keywords with defaults; what is out of its"
        " limits is refused, all at once.",
        "SE-107": "Somebody's own script is told everything by eleven flags; what it makes is registered with its"
        " episodes and their number.",
        "SE-108": "No episodes, and episodes that give no row, are two different words; the script is not started.",
        "SE-109": "The command line of a script is eleven flags and their values, nothing else.",
        "SE-110": "The training file is named after the learn model and holds `messages`; rows with `conversations` are"
        " read, and written on request.",
        "SE-111": "The script that comes with honed trains a tiny model on a CPU, by hand too; PEFT loads its folder.",
        "SE-112": "Pairs are learned from by DPO: the loss of preferences falls on a CPU.",
        "SE-113": "Settings, script, data, process, files and store: each fault has its class; a process's has"
        " exit status (-1 by a signal) and stderr, and a missing script is told before anything is written.",
        "SE-114": "An adapter is called `scenario@n`; n rises, and the one of a deleted adapter is not given again. Ids"
        " of any other form are kept as they come with imported events.",
        "SE-115": "Everything that is known of a trained adapter is stored, and read back equal.",
        "SE-116": "Of a training its loss is what the script says, its time is measured, and its GPU memory is told or"
        " absent.",
        "SE-117": "While a script trains, events come in; cancelling ends it with all that it has started.",
        "SE-126": "An adapter of any script becomes GGUF once, as long as its files stay the same; one that cannot"
        " is an error that says why.",
        "TR-019": "A base in 4 bits is what the preset `runner` asks for; without CUDA it is told and left out.",
        "TR-024": "Biases that are trained (`all`, `lora_only`) are refused: a server could not apply them.",
        "TR-027": "A rank-stabilised scale goes into the adapter's config and into its GGUF.",
        "TR-062": "A run that was stopped, killed, or whose last checkpoint is damaged goes on from the last complete"
        " one, to the same weights.",
        "TR-087": "Out of memory, batches are halved and accumulation doubles, so that a step learns from as many"
        " rows; only then rows are shortened. Each is told.",
    },
    "Serving": {
        "SE-118": "Whatever serves the adapters keeps the same promise: what was put into service is in service, an"
        " order that is repeated changes nothing, and there is a way back to the base model.",
        "SE-119": "llama-server serves an adapter once it has loaded it, is healthy and answers as the adapter does;"
        " when one of these fails, what served before goes on.",
        "SE-122": "Where nothing is served, adapters are accepted and nothing else changes.",
        "SE-123": "Files that are not there, a server that does not start and one that is not healthy in time are"
        " errors of their own.",
        "SE-120": "Base model, address, port, GPU layers, context, slots, adapter and name make llama-server's command"
        " line; its pid and its log are files.",
        "SE-121": "An adapter goes into service by a second server, which takes over when it has been proved; one that"
        " a server of the operator's has loaded, by its scale.",
        "SE-124": "Clients that ask without a pause see no failed request while adapters are exchanged, with two"
        " servers or with one.",
        "SE-125": "The address of the server that answers is right in each of the four states: down, starting, active,"
        " releasing.",
        "SE-151": "In the mode `auto` what the gate has passed goes live by itself, in the mode `manual` it waits for"
        " a word; what failed the gate, or serves already, is skipped in both.",
        "SE-152": "Unless the config says otherwise the mode is `manual`, and five adapters are remembered, across"
        " restarts.",
        "SE-153": "`honed rollback` serves what served before, adapter by adapter, and in the end the base model.",
        "SE-154": "In the mode `manual` a finished adapter is announced.",
        "SE-155": "Putting an adapter into service says what served before; leaving it out says why.",
        "SE-156": "Going back from the base model is an error of its own.",
    },
    "A stand-alone run": {
        "TR-016": "The base model is required; one that is not found is answered with how one is named.",
        "TR-017": "A row may hold 2048 tokens unless the config says 256 to 131072.",
        "TR-018": "The type that is computed in is detected unless float16 or bfloat16 is asked for.",
        "TR-020": "The rank is 8 unless it is 4, 16, 32, 64 or 128; others are refused.",
        "TR-021": "Alpha is 16 by default and reaches the adapter.",
        "TR-022": "Dropout is 0 by default, 0.5 at most, and reaches the adapter.",
        "TR-023": "Seven projections learn by default, and all are in adapter_config.json; one that is named and not"
        " there is refused.",
        "TR-025": "Activations are computed again with `true`, on an accelerator with `unsloth`, never with `false`;"
        " the weights are the same.",
        "TR-026": "`random_state` decides the first weights of the adapter, whatever the seed of the rows is.",
        "TR-028": "Vision layers are off; to switch them on is refused.",
        "TR-029": "Language layers are on; without them nothing would learn, which is refused.",
        "TR-030": "The switches for attention and MLP remove their target modules.",
        "TR-031": "Two rows at a time unless the config says 1 to 64.",
        "TR-032": "The rows that one step learns from are told: batch times accumulation.",
        "TR-033": "Five warm-up steps by default; the rate rises from 0.",
        "TR-034": "A number of steps wins over epochs; without one epochs hold.",
        "TR-035": "Three epochs by default.",
        "TR-036": "The learning rate is 2e-4 by default, 1e-6 to 1e-2.",
        "TR-037": "fp16 and bf16 are detected unless one is set; both are refused.",
        "TR-038": "Each step is logged by default, and the status is written as often.",
        "TR-039": "Four optimizers train; the 8-bit one is AdamW on a CPU, which is told.",
        "TR-040": "Weight decay is 0.01 by default.",
        "TR-041": "Four schedules of the learning rate are known.",
        "TR-042": "The seed is 3407 by default.",
        "TR-043": "Checkpoints lie in the folder that the config names, each complete.",
        "TR-044": "A checkpoint is written every so many steps, and the status tells when.",
        "TR-045": "The training file is data/splits/train.jsonl unless another is named.",
        "TR-046": "A run is evaluated on the validation file after each epoch, by default `val.jsonl` beside the"
        " training file.",
        "TR-047": "Rows with a text field are learned whole; the field has any name.",
        "TR-048": "Five chat templates can be chosen by name; one that does not fit the model is warned of.",
        "TR-049": "Preformatted rows are tokenised together, by `num_proc` threads, 2 by default.",
        "TR-050": "Adapter, tokenizer, manifest and card are written where the config says.",
        "TR-051": "A merged model is written only when it is asked for.",
        "TR-052": "A GGUF is written only when it is asked for.",
        "TR-053": "A GGUF is Q8_0 unless f16, bf16, Q4_K_M or Q5_K_M is asked for; the last two need llama.cpp's tool,"
        " which is said before the run.",
        "TR-054": "Nothing is uploaded unless that is asked for; offline it is refused before the run.",
        "TR-055": "Figures are logged to wandb when it is on, and nowhere by themselves.",
        "TR-056": "All that is wrong in a config, TOML or JSON, is said at once with the path of each key, before"
        " anything is loaded.",
        "TR-057": "Only weights of the adapter learn; their number and share are told.",
        "TR-058": "A row begins with exactly one beginning-of-text token, where the tokenizer has one.",
        "TR-059": "Turns of from and value are read as role and content.",
        "TR-060": "Instruction rows become conversations; with an empty input the instruction is the user's turn.",
        "TR-061": "Only the assistant's replies count under each template; all else has the label -100.",
        "TR-063": "A run that fails leaves a status that is not running, with the error, and the error goes up.",
        "TR-064": "A run is written as a script that runs without honed, with the same masks.",
        "TR-065": "A missing package is named with what installs it; nothing is installed.",
        "TR-066": "The status says running while it runs, and no more when it has ended.",
        "TR-067": "The step rises to the total and never beyond.",
        "TR-068": "Epochs are told, done and in all, also of a run by steps.",
        "TR-069": "The loss is that of the last logging step.",
        "TR-070": "The learning rate is the schedule's.",
        "TR-071": "The time that is left falls, and is within half of the truth at even steps.",
        "TR-072": "The time of the start is kept when a run goes on.",
        "TR-073": "The time of the last complete checkpoint is told.",
        "TR-074": "The time of completion is told of a run that has done all.",
        "TR-075": "Each write replaces the status whole, with its time.",
        "TR-076": "The error is null or says why the run ended.",
        "TR-077": "Without a status file the last 20 lines of the log say the same; touched within a minute it counts"
        " as running.",
        "TR-078": "adapter_config.json loads in PEFT.",
        "TR-079": "adapter_model.safetensors holds weights.",
        "TR-080": "training-stats.json has model, rows, last loss, steps, epochs and time.",
        "TR-081": "The merged model is that of base and adapter in 16 bits, with its tokenizer.",
        "TR-082": "The GGUF loads in llama.cpp and answers.",
        "TR-083": "The log has a line for each logging step.",
        "TR-084": "A final loss over 1.0 warns, one under 0.5 is good.",
        "TR-085": "A loss that ends above where it began is flagged as diverging.",
        "TR-086": "Out of memory is a failed run with the settings to change.",
        "TR-088": "A line that is no row is named with its number and the format step.",
        "TR-089": "A loss that is no number stops the run, with the rates 1e-4 and 5e-5 to try.",
        "TR-090": "A model that is not found is answered with a valid form of its name.",
        "TR-091": "A chat template that does not fit the tokenizer or the model's own is told with what differs.",
        "TR-100": "`honed train` works with and without a config; its log can be followed.",
    },
    "Around a stand-alone run": {
        "TR-092": "The baseline says which score an adapter must reach.",
        "TR-093": "An adapter is measured on the test set of the baseline, and compared with it and with its target.",
        "TR-094": "A gate's result has its id, whether it passed, a message, blockers, warnings, the values, and when"
        " it was checked.",
        "TR-095": "A baseline counts only for the test set that it was measured on, told by its digest.",
        "TR-096": "Values are compared as at least, at most or exactly; 20 points of improvement are asked for unless"
        " set otherwise; an absent value blocks.",
        "TR-097": "A quantised model that keeps less than 95 % of its score does not pass; what it keeps is measured on"
        " llama-server.",
        "TR-098": "A data set passes with three splits without leakage by content, group or task; shares and sizes"
        " warn.",
        "TR-099": "The validator finds lines that are no rows, copies, leakage, extreme lengths, a tiny test set, and"
        " rows without a language.",
    },
}
"""By area: what holds, by the name that tests call it by."""

_HEAD: Final = """\
# Features

What honed does, and the test that shows it. An id never changes its meaning; a test names the ids that it shows in
its `feature` mark, so `pytest -m feature` runs them all. This page is written by `python -m tests.features`.
"""


def rows() -> dict[str, str]:
    """What holds, by id, of all areas."""
    return {id: holds for area in AREAS.values() for id, holds in area.items()}


def shown_by() -> dict[str, list[str]]:
    """The tests that are marked with each id, `file::function`, in order; read from their source, not run."""
    shown: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for id, name in marks_of(path):
            shown.setdefault(id, []).append(f"{path.relative_to(TESTS.parent)}::{name}")
    return shown


def marks_of(path: Path) -> Iterator[tuple[str, str]]:
    """Id and function of every feature mark in a file.

    Raises:
        ValueError: a mark says anything but texts, or is on something that pytest does not run.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if not ast.unparse(mark).startswith("pytest.mark.feature"):
                continue
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if not (is_test and f"{path.name[:5]}{node.name[:5]}" == "test_test_"):
                raise ValueError(f"{path}:{node.lineno}: {node.name} is marked, and is no test")
            if not isinstance(mark, ast.Call) or not mark.args or mark.keywords:
                raise ValueError(f"{path}:{node.lineno}: the mark of {node.name} names no feature")
            for argument in mark.args:
                yield str(ast.literal_eval(argument)), node.name


def page() -> str:
    """docs/features.md."""
    shown = shown_by()
    parts = [_HEAD]
    for area, features in AREAS.items():
        parts.append(f"\n## {area}\n\n| id | what holds | shown by |\n|---|---|---|\n")
        for id, holds in features.items():
            tests = "<br>".join(f"`{test}`" for test in shown.get(id, []))
            parts.append(f"| {id} | {holds} | {tests} |\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
