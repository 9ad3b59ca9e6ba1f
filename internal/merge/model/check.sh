#!/bin/bash
# Checks the model of the ordering protocol with Spin: the protocol must hold, each mutant must fail.
# Prints a line per run, as it ends. Exit status 0 only when every result is the expected one.
set -euo pipefail

# A search is
#   exhaustive: all states, or the result is "incomplete";
#   bit-state:  many random searches of a state space that is too large, each until its bit table is full;
#   shortest:   breadth first, for a counter-example as short as can be.
# A mutant is expected to violate a property of the model (see watermark.pml), not just to fail.
runs="
# variant             search      CPUs programs rounds  expected    switches
protocol              exhaustive  2    2        3       holds
protocol,preemption   exhaustive  2    2        3       holds       -DPREEMPT
protocol,many-CPUs    exhaustive  3    1        3       holds
protocol,fine-clock   exhaustive  2    1        3       holds       -DTICKS=4
protocol,clock-skew   exhaustive  2    1        3       holds       -DSKEW=1 -DTICKS=3
protocol,processes    exhaustive  2    1        3       holds       -DPROCESSES
protocol,processes    exhaustive  1    2        3       holds       -DPROCESSES
protocol              bit-state   3    2        3       holds
protocol              bit-state   2    3        4       holds
protocol,preemption   bit-state   2    3        4       holds       -DPREEMPT -DTICKS=6
NON_ATOMIC            exhaustive  2    2        2       holds       -DNON_ATOMIC
NON_ATOMIC,preemption shortest    1    2        3       never_late  -DNON_ATOMIC -DPREEMPT
NO_ANNOUNCE           shortest    2    1        2       never_late  -DNO_ANNOUNCE
STAMP_FIRST           shortest    2    1        2       never_late  -DSTAMP_FIRST
RELAXED               shortest    2    1        2       never_late  -DRELAXED
WITHDRAW_FIRST        shortest    2    1        2       never_late  -DWITHDRAW_FIRST
LEAK                  shortest    2    1        2       prompt      -DLEAK
T_LATE                shortest    2    1        2       never_late  -DT_LATE
DRAIN_FIRST           shortest    2    1        2       never_late  -DDRAIN_FIRST
ONLINE_ONLY           shortest    2    1        2       never_late  -DONLINE_ONLY
RING_HEADS            shortest    2    1        2       never_late  -DRING_HEADS
SORT_TO_NOW           shortest    2    1        2       never_late  -DSORT_TO_NOW
UNSORTED              shortest    2    1        2       in_order    -DUNSORTED
UNANNOUNCED           shortest    1    2        2       never_late  -DUNANNOUNCED -DPROCESSES
GUARD=0               shortest    2    1        2       never_late  -DGUARD=0
GUARD=SKEW            shortest    2    1        2       never_late  -DGUARD=1 -DSKEW=1 -DTICKS=3
"
row="%-22s %-11s %-16s %10s  %-11s %-11s %s\n"

install_tools() {
	local sudo=()
	if command -v spin >/dev/null && command -v gcc >/dev/null; then
		return
	fi
	if ((EUID != 0)); then
		sudo=(sudo)
	fi
	"${sudo[@]}" apt-get update -qq
	"${sudo[@]}" apt-get install -y -qq --no-install-recommends spin gcc libc6-dev >/dev/null
}

# search builds the verifier in the current directory, runs it and prints what it says.
search() {
	local kind=$1 gcc_flags seed
	shift
	case $kind in
	exhaustive) gcc_flags=(-O2) ;;
	bit-state) gcc_flags=(-O2 -DBITSTATE -DT_RAND -DP_RAND) ;;
	shortest) gcc_flags=(-O1 -DBFS) ;;
	esac
	spin "$@" -a "$model"
	gcc -w -DSAFETY -DMEMLIM=6000 "${gcc_flags[@]}" -o pan pan.c
	case $kind in
	exhaustive) ./pan -n -w25 ;;
	bit-state) for seed in {1..10}; do ./pan -n -w21 -RS"$seed" -h"$seed" || return; done ;;
	shortest) ./pan -n ;;
	esac
}

# result reads what a search has said.
result() {
	local said=$1
	if grep -q "assertion violated" <<<"$said"; then
		sed -n 's/.*assertion violated \([a-z_]*\).*/\1/p' <<<"$said" | head -n 1
	elif ! grep -q "errors: 0$" <<<"$said" || grep -qE "errors: [1-9]|^search failed" <<<"$said"; then
		echo error
	elif grep -qiE "not completed|too small|out of memory" <<<"$said"; then
		echo incomplete
	else
		echo holds
	fi
}

# check does one run, prints its line, and returns whether the result is the expected one.
check() {
	local variant kind cpus programs rounds expected switches said states got verdict=ok
	read -r variant kind cpus programs rounds expected switches <<<"$1"
	switches="-DCPUS=$cpus -DPROGRAMS=$programs -DROUNDS=$rounds $switches"
	case $expected in
	never_late | in_order) switches+=" -DORDER" ;; # so that no other property is found first
	esac

	# shellcheck disable=SC2086 # the switches are words
	said=$(search "$kind" $switches 2>&1) || said+=$'\nsearch failed'
	states=$(awk '/states, stored/ { n += $1 } END { printf "%.0f", n }' <<<"$said")
	got=$(result "$said")
	if [[ $got != "$expected" ]]; then
		verdict=WRONG
	fi
	# shellcheck disable=SC2059 # the format is a constant
	printf "$row" "$variant" "$kind" "$cpus x $programs, $rounds rounds" "$states" "$got" "$expected" "$verdict"
	if [[ $got == error ]]; then
		echo "$said" >&2
	fi
	[[ $verdict == ok ]]
}

model=$(realpath "$(dirname "$0")")/watermark.pml
if (($# > 0)); then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	check "$1"
	exit
fi
install_tools
# shellcheck disable=SC2059
printf "$row" variant search "CPUs x programs" states result expected ""
if ! grep -v '^\(#.*\)\?$' <<<"$runs" | xargs -d '\n' -n 1 -P "$(nproc)" "$0"; then
	echo "a result is not the expected one" >&2
	exit 1
fi
echo "every result is the expected one, after $SECONDS s"
