"""A check as JUnit's XML, which CI servers show as tests: each item of the certificate is one."""

from xml.etree import ElementTree as Xml

from ..outcome import Environment, Outcome, Stable
from .wording import PHASE_NAMES, clean


def to_junit(outcome: Outcome, subject: str) -> str:
    """Write what became of a check of the subject: a model, or an address."""
    cases = _cases(outcome)
    seconds = outcome.certificate.seconds if isinstance(outcome, Stable) else 0.0
    suite = Xml.Element("testsuite", name="autotune check", tests=str(len(cases)))
    for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("time", f"{seconds:.3f}")
    for case in cases:
        case.set("classname", clean(subject))
        suite.append(case)
    suites = Xml.Element("testsuites")
    suites.append(suite)
    Xml.indent(suites)
    return Xml.tostring(suites, encoding="unicode", xml_declaration=True)


def _cases(outcome: Outcome) -> list[Xml.Element]:
    if isinstance(outcome, Stable):
        items = outcome.certificate.checks
        cases = [Xml.Element("testcase", name=i.name, time=f"{i.seconds:.3f}") for i in items]
        for case, item in zip(cases, items, strict=True):
            if not item.requests:
                Xml.SubElement(case, "skipped", message=clean(item.note or ""))
        return cases
    case = Xml.Element("testcase", name=PHASE_NAMES[outcome.phase], time="0")
    kind = "error" if isinstance(outcome, Environment) else "failure"
    failed = Xml.SubElement(case, kind, type=clean(outcome.cause), message=clean(outcome.reason))
    failed.text = "\n".join(map(clean, outcome.evidence))
    return [case]
