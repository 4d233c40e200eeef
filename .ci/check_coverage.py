"""Combine the coverage data, print the report, and fail below the limits for lines and for branches."""

import json
import subprocess
import sys
from pathlib import Path

MIN_LINES, MIN_BRANCHES = 95.0, 90.0


def main() -> int:
    """Return 0 when both limits are met, else 1."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "report", "--skip-covered", "--show-missing"], check=True)
    subprocess.run([*coverage, "json", "--quiet", "-o", "build/coverage.json"], check=True)
    totals = json.loads(Path("build/coverage.json").read_text())["totals"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    branches = 100 * totals["covered_branches"] / totals["num_branches"]
    print(f"lines {lines:.1f}% (at least {MIN_LINES:g}%), branches {branches:.1f}% (at least {MIN_BRANCHES:g}%)")
    return 0 if lines >= MIN_LINES and branches >= MIN_BRANCHES else 1


if __name__ == "__main__":
    sys.exit(main())
