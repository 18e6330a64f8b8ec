#!/usr/bin/env bash
# Set up as scripts/setup.sh --dev does, then run the static checks: all of them, also after one has failed.
#
#     scripts/check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --dev
. scripts/env.sh

failed=()
check() {
    local start=$SECONDS
    printf '\n== %s\n' "$1"
    "${@:2}" || failed+=("$1")
    printf '   %s s\n' $((SECONDS - start))
}

manifests() {
    python - <<'PYTHON'
from pathlib import Path
from catkin_pkg.package import parse_package

for path in [Path("package.xml"), *Path("interfaces").glob("*/package.xml")]:
    problems: list[str] = []
    parse_package(path, warnings=problems)
    if problems:
        raise SystemExit(f"{path}: {problems}")
PYTHON
}

yaml_files() {
    git ls-files -z '*.yaml' '*.yml' '*.cff' ':!mkdocs.yml' | xargs -0 python -c '
import sys, yaml
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        yaml.safe_load(file)'
}

shell_scripts() { git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck --external-sources; }

check "ruff: style, likely bugs, docstrings" ruff check
check "mypy: types" mypy
check "shellcheck: shell scripts" shell_scripts
check "catkin_pkg: package.xml" manifests
check "PyYAML: every YAML file" yaml_files
if [ -f mkdocs.yml ]; then check "mkdocs: documentation, links" env NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir build/site; fi

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed:\n' >&2
    printf '  %s\n' "${failed[@]}" >&2
    exit 1
fi
printf '\nAll static checks passed.\n'
