"""What became of one server, or of one log, on stdout."""

from rich.text import Text

from ..diagnose import Diagnosis, Server
from ..outcome import Outcome, Stable
from .tables import pairs_table, stdout
from .wording import PHASE_NAMES, clean, sentence, speed_rows


def print_outcome(outcome: Outcome) -> None:
    console = stdout()
    console.print(Text(clean(sentence(outcome))))
    if isinstance(outcome, Stable):
        console.print(pairs_table(speed_rows(outcome.certificate)))


def print_diagnosis(name: str, found: Diagnosis) -> None:
    console, outcome = stdout(), found.outcome
    console.print(Text(clean(name), style="bold"))
    if outcome is None:
        console.print(Text(f"  {clean(_without_failure(found))}"))
    else:
        which = f"{found.server.name}: " if found.server.name and found.others else ""
        console.print(Text(f"  {clean(which + sentence(outcome))}"))
        console.print(f"  cause: {outcome.cause}, phase: {outcome.phase}")
        for line in outcome.evidence:
            console.print(Text(f"  > {clean(line)}", style="dim"))
        for cure in found.cures:
            console.print(Text(f"  cure: {clean(cure)}"))
    for other in found.others:
        console.print(Text(f"  also in this log: {clean(_other(other))}"))


def _other(server: Server) -> str:
    start = server.start
    which = f"{server.name}: " if server.name else ""
    if start.outcome is not None:
        return f"{which}{sentence(start.outcome)}"
    return f"{which}{'it served' if start.ready else f'ended while {PHASE_NAMES[start.phase]}'}"


def _without_failure(found: Diagnosis) -> str:
    if found.ready:
        return "nothing went wrong in this log"
    last = f"; the last error in it is: {found.last_error}" if found.last_error else ""
    phase = found.phase
    if phase != "spawn":
        return f"the log ends while {PHASE_NAMES[phase]}: vLLM was killed, or the log is incomplete"
    if found.server.start.of_vllm:
        return f"this part of vLLM's log shows neither how far it came nor why it ended{last}"
    return f"no vLLM start-up found in this log{last}"
