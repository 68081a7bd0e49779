#!/usr/bin/env bash
# Payload rate of one bulk transfer on each profile of the WAN emulator, by kind of control. Needs root and a built emulator.
#   WAN_LAB_BIN=…/wan-lab transport/examples/wan_bench.sh [-s SECONDS] [-p "PROFILE…"] [-m "library adaptive paced tcp"] [-b]
# With -b a TCP transfer (CUBIC) runs beside each, and its rate is shown last.
set -euo pipefail
seconds=10 profiles="expressroute vwan transatlantic apac bad" modes="library adaptive paced"
beside=
while getopts s:p:m:b option; do
  case $option in s) seconds=$OPTARG ;; p) profiles=$OPTARG ;; m) modes=$OPTARG ;; b) beside=yes ;; *) exit 2 ;; esac
done
lab=${WAN_LAB_BIN:?the path of wan-lab}
bench=${WAN_BENCH:-target/release/examples/wan_bench}
export WAN_LAB=causeway-bench WAN_LAB_NET=10.91
declare -A mbit=([expressroute]=1000 [vwan]=500 [transatlantic]=500 [apac]=200 [bad]=50)
dir=$(mktemp -d)
servers=()
finish() { ((${#servers[@]} == 0)) || kill "${servers[@]}" 2>/dev/null || true; "$lab" down >/dev/null; rm -rf "$dir"; }
trap finish EXIT
"$bench" init "$dir"
printf '%-14s %-9s %9s %9s %9s\n' profile control Mbit/s payload% wire%
for profile in $profiles; do
  "$lab" up --sites 2 --profile "$profile" >/dev/null
  address=$("$lab" ip a):7000
  for mode in $modes; do
    rate=${mbit[$profile]} how=("$mode") what=()
    [[ $mode != paced ]] || how=(paced "$rate")
    [[ $mode != library && $mode != tcp ]] || what=("$mode")
    "$lab" exec a "$bench" serve "$dir" "$address" "${how[@]}" 2>/dev/null &
    servers=($!)
    if [[ $beside ]]; then
      "$lab" exec a "$bench" serve "$dir" "${address%:*}:7001" tcp &
      servers+=($!)
    fi
    sleep 0.3
    # Wire bytes over the whole run, the warm-up of 2 s included.
    "$lab" reset a-b
    if [[ $beside ]]; then
      "$lab" exec b "$bench" fetch "$dir" "${address%:*}:7001" "$seconds" tcp >"$dir/beside" &
      neighbour=$!
    fi
    got=$("$lab" exec b "$bench" fetch "$dir" "$address" "$seconds" "${what[@]}")
    wire=$("$lab" bytes a-b | cut -d' ' -f1)
    [[ ! $beside ]] || wait "$neighbour"
    kill "${servers[@]}"; wait "${servers[@]}" 2>/dev/null || true; servers=()
    awk -v p="$profile" -v m="$mode" -v g="$got" -v r="$rate" -v w="$wire" -v s="$seconds" \
      -v b="$([[ ! $beside ]] || cat "$dir/beside")" \
      'BEGIN { printf "%-14s %-9s %9.1f %9.1f %9.1f %s\n", p, m, g, 100*g/r, 100*w*8e-6/(s+2)/r, b }'
  done
  "$lab" down >/dev/null
done
