# shellcheck shell=bash
# Shared by the lanes; sourced, never run.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
use_venv
cd "${repo:?}" || exit
logs="${cache:?}/logs"
: "${lane:?the name of the lane that sources this}"
mkdir -p "$logs"
failures=()
# Logs are read as they are.
export NO_COLOR=1

# Run a command with its output in a log, and print the end of the log only where the command failed.
check() { # name, command...
  local name=$1 log="$logs/$lane-$1.log" started=$SECONDS
  shift
  if "$@" >"$log" 2>&1 </dev/null; then
    printf '  ok      %-24s %5d s\n' "$name" "$((SECONDS - started))"
    return
  fi
  printf '  FAILED  %-24s %5d s   (all of it: %s)\n' "$name" "$((SECONDS - started))" "${log#"$repo"/}"
  tail -n "${TAIL:-100}" "$log" | sed 's/^/    /'
  failures+=("$name")
}

# The last command of a lane: its exit status.
verdict() {
  [ ${#failures[@]} -eq 0 ] || { printf '%s: %s\n' "$lane" "failed: ${failures[*]}"; return 1; }
}
