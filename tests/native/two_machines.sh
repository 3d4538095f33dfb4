#!/bin/sh
# Two machines of network namespaces: `two_machines.sh RATE COMMAND...` runs the command on the first, whose address is
# 10.77.0.1; the other is 10.77.0.2, with a pair of virtual devices between them. RATE is what each may send, such as
# 1gbit (a token bucket; no delay), or - for no limit. An MPI launcher reaches the other machine by this same file, in
# ssh's place: see mpi_launch.ts. Needs root, or user namespaces.
set -eu

case ${TWO_MACHINES:-} in
'') # outside: become the first machine
  command -v ip >/dev/null || { echo "no ip" >&2; exit 77; }
  user=$([ "$(id -u)" = 0 ] || echo --map-root-user)
  # shellcheck disable=SC2086 # none, or one word
  TWO_MACHINES=setup exec unshare $user --net --uts --mount sh "$0" "$@"
  ;;
setup)
  rate=$1
  shift
  hostname machine-1
  mount -t sysfs sysfs /sys # where UCX looks for devices
  unshare --net --uts --mount sh -c 'mount -t sysfs sysfs /sys; hostname machine-2; exec sleep 600' &
  TWO_MACHINES=$!
  export TWO_MACHINES
  trap 'kill $TWO_MACHINES' EXIT
  until [ "$(nsenter -t $TWO_MACHINES -u hostname)" = machine-2 ]; do sleep 0.05; done
  ip link add wire-1 type veth peer name wire-2 netns $TWO_MACHINES
  on_other="nsenter -t $TWO_MACHINES -n"
  ip address add 10.77.0.1/24 dev wire-1
  $on_other ip address add 10.77.0.2/24 dev wire-2
  for device in lo wire-1; do ip link set $device up; done
  for device in lo wire-2; do $on_other ip link set $device up; done
  if [ "$rate" != - ]; then
    tc qdisc add dev wire-1 root tbf rate "$rate" burst 256kb latency 50ms
    $on_other tc qdisc add dev wire-2 root tbf rate "$rate" burst 256kb latency 50ms
  fi
  is_up() { [ "$("$@" cat "/sys/class/net/$device/operstate")" = up ]; }
  device=wire-1
  until is_up; do sleep 0.05; done
  device=wire-2
  until is_up nsenter -t $TWO_MACHINES -m; do sleep 0.05; done
  "$@"
  ;;
*) # a launcher wants a command on a machine: [options of ssh] ADDRESS WORDS...
  while [ "${1#-}" != "$1" ]; do shift; done
  machine=$1
  shift
  [ "$machine" = 10.77.0.2 ] || exec sh -c "$*"
  exec nsenter -t "$TWO_MACHINES" -n -u -m sh -c "$*"
  ;;
esac
