// Sums, maxima and minima over the THREADS of a workgroup, which all get the result; all threads must call. Put in front of
// kernels that reduce, which write `kernel` in place of `main`. The order of additions is fixed, so results repeat bit for bit.
// SUBGROUPS: one subgroup operation, then each thread adds up what the subgroups found: 2 barriers.
// Otherwise a tree in workgroup memory: 2 + log2(THREADS) barriers.

#if SUBGROUPS
var<private> subgroup_lane: u32;
var<private> subgroup_index: u32;
var<private> subgroup_count: u32;
#end

// Separate arguments: naga 29 generates wrong Direct3D code for a struct of them.
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
#if SUBGROUPS
  @builtin(subgroup_invocation_id) lane_of_subgroup: u32,
  @builtin(subgroup_id) id_of_subgroup: u32,
  @builtin(num_subgroups) number_of_subgroups: u32,
#end
) {
#if SUBGROUPS
  subgroup_lane = lane_of_subgroup;
  subgroup_index = id_of_subgroup;
  subgroup_count = number_of_subgroups;
#end
  kernel(group, groups, thread);
}

#for T in f32 u32
var<workgroup> reduce_$T: array<$T, THREADS>;

fn sum_of_$T(a: $T, b: $T) -> $T { return a + b; }
fn max_of_$T(a: $T, b: $T) -> $T { return max(a, b); }
fn min_of_$T(a: $T, b: $T) -> $T { return min(a, b); }
#if SUBGROUPS
fn subgroup_sum_$T(value: $T) -> $T { return subgroupAdd(value); }
fn subgroup_max_$T(value: $T) -> $T { return subgroupMax(value); }
fn subgroup_min_$T(value: $T) -> $T { return subgroupMin(value); }
#end

#for o in sum max min
fn workgroup_$o_$T(value: $T, thread: u32) -> $T {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroup_$o_$T(value);
  if (subgroup_lane == 0u) { reduce_$T[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_$T[0];
  for (var i = 1u; i < subgroup_count; i++) { total = $o_of_$T(total, reduce_$T[i]); }
  return total;
#else
  reduce_$T[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_$T[thread];
      reduce_$T[thread] = $o_of_$T(total, reduce_$T[thread + stride]);
    }
    workgroupBarrier();
  }
  return reduce_$T[0];
#end
}

#end
#end
