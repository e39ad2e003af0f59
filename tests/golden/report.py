"""Say which signatures no real log shows, what of the public logs is right, and what is around.

python -m tests.golden.report
"""

from collections import Counter, defaultdict

from tests.support.envelopes import ENVELOPES
from tests.support.golden import ALL, PUBLIC, diagnosed, errors, essence, truths
from tests.support.paths import GOLDEN
from vllm_autotune.diagnose import LogReader
from vllm_autotune.diagnose.signature import NO_LINE, Signature
from vllm_autotune.diagnose.signatures import SIGNATURES


def shown_in(signature: Signature, text: str) -> bool:
    """Tell whether a log has a line with this signature."""
    return any(
        signature.needle in line and signature.pattern.search(line) for line in text.splitlines()
    )


def seen() -> dict[Signature, set[str]]:
    """Return the folders (version and device) whose real logs show each signature."""
    found: dict[Signature, set[str]] = {signature: set() for signature in SIGNATURES}
    for log in sorted(GOLDEN.glob("*/*.log")):
        text = log.read_text()
        for signature, folders in found.items():
            if shown_in(signature, text):
                folders.add(log.parent.name)
    return found


def unknown() -> list[str]:
    """Return the failing logs whose cause no signature names."""
    names = []
    for log in sorted(GOLDEN.glob("*/*.log")):
        reader = LogReader()
        reader.feed(log.read_text())
        verdict = reader.verdict()
        if verdict is not None and verdict.cause == "unknown":
            names.append(f"{log.parent.name}/{log.stem}: {verdict.reason[:120]}")
    return names


def by_kind() -> dict[str, list[str]]:
    """Return the public logs by kind; what is wrong with one stands behind its name."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, truth in truths().items():
        wrong = ", ".join(errors(diagnosed((PUBLIC / f"{name}.log").read_text()), truth))
        found[truth["kind"]].append(f"{name}: {wrong}" if wrong else "")
    return found


def changed_by_envelopes() -> Counter[str]:
    """Return for each envelope of how many logs it changes what is said."""
    texts = {log: log.read_text() for log in ALL}
    said = {log: essence(diagnosed(text)) for log, text in texts.items()}
    return Counter(
        {
            name: sum(essence(diagnosed(wrap(texts[log]))) != said[log] for log in ALL)
            for name, wrap in ENVELOPES.items()
        }
    )


def main() -> None:
    """Print the report."""
    print("Public logs, right of all, by kind:")
    for kind, wrongs in sorted(by_kind().items()):
        print(f"  {kind}: {wrongs.count('')} of {len(wrongs)}")
        for wrong in filter(None, wrongs):
            print(f"    {wrong}")
    changed = changed_by_envelopes()
    print(f"\n{len(changed)} envelopes around {len(ALL)} logs change {changed.total()} diagnoses")
    for name, count in changed.items():
        if count:
            print(f"  {name}: {count}")
    print()
    found = seen()
    by_name: dict[str, set[str]] = defaultdict(set)
    for signature, folders in found.items():
        by_name[signature.name] |= folders
    print("Causes that real logs show:")
    for name, folders in sorted(by_name.items()):
        if folders:
            print(f"  {name}: {', '.join(sorted(folders))}")
    print("\nFrom source, unseen:")
    for signature, folders in found.items():
        if not folders and signature.needle != NO_LINE[0]:
            also = "" if not by_name[signature.name] else " (another wording is seen)"
            print(f"  {signature.name}: `{signature.needle}`, {signature.versions}{also}")
    print("\nReal failures that no signature names:")
    for line in unknown():
        print(f"  {line}")


if __name__ == "__main__":
    main()
