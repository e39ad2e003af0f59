"""A check as JUnit's XML, which CI servers show as tests: each item of the certificate is one."""

from collections.abc import Iterable
from xml.etree import ElementTree as Xml

from ..machine.device import counted
from ..outcome import Environment, Outcome, Stable
from ..report.report import Report
from .wording import PHASE_NAMES, clean


def report_to_junit(reports: Iterable[Report]) -> str:
    """Write a suite for each report: what its winner survived, else how its last launch ended."""
    return _written(
        _suite(
            _last(report),
            f"{report.model.path} on {counted(report.devices)}",
        )
        for report in reports
    )


def _last(report: Report) -> Outcome:
    if report.winner:
        return Stable(certificate=report.winner.certificate)
    if report.trials:
        return report.trials[-1].outcome
    return Environment(cause=report.status, phase="spawn", reason=report.reason)


def to_junit(outcome: Outcome, subject: str) -> str:
    """Write what became of a check of the subject: a model, or an address."""
    return _written([_suite(outcome, subject)])


def _suite(outcome: Outcome, subject: str) -> Xml.Element:
    cases = _cases(outcome)
    seconds = outcome.certificate.seconds if isinstance(outcome, Stable) else 0.0
    suite = Xml.Element("testsuite", name="autotune", tests=str(len(cases)))
    for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("time", f"{seconds:.3f}")
    for case in cases:
        case.set("classname", clean(subject))
        suite.append(case)
    return suite


def _written(made: Iterable[Xml.Element]) -> str:
    suites = Xml.Element("testsuites")
    suites.extend(made)
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
