"""Say which signatures no real log shows, and which vLLM versions have logs at all.

python -m tests.golden.report
"""

from collections import defaultdict

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


def main() -> None:
    """Print the report."""
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
