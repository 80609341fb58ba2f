"""Commands that look at the machine and the settings: doctor, config show."""

from __future__ import annotations

import sys

from kelm.cli.tables import print_json, print_table
from kelm.config import load_settings, shown


def config_show(as_json: bool) -> None:
    settings = shown(load_settings())
    if as_json:
        print_json({name: {"value": value, "source": source} for name, (value, source) in settings.items()})
        return
    print_table(("SETTING", "VALUE", "SOURCE"), [(name, value, source) for name, (value, source) in settings.items()])


def doctor(as_json: bool) -> None:
    from kelm import doctor as checks

    findings = checks.examine(load_settings())
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        print_table((), [(finding.state, finding.what, finding.found) for finding in findings])
    if any(finding.state == "lacks" for finding in findings):
        sys.exit(1)
