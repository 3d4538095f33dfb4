// Sums, maxima and minima over the THREADS of a workgroup, which all get the result. Put in front of kernels that reduce;
// all threads must call. The order of additions is fixed, so results repeat bit for bit.
// SUBGROUPS: one subgroup operation, then each thread adds up what the subgroups found: 2 barriers.
// Otherwise a tree in workgroup memory: 2 + log2(THREADS) barriers.

var<workgroup> reduce_f32: array<f32, THREADS>;
var<workgroup> reduce_u32: array<u32, THREADS>;
#if SUBGROUPS
// Set by `main` from its built-in values.
var<private> subgroup_lane: u32;
var<private> subgroup_index: u32;
var<private> subgroup_count: u32;
#end

fn workgroup_sum_f32(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroupAdd(value);
  if (subgroup_lane == 0u) { reduce_f32[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_f32[0];
  for (var i = 1u; i < subgroup_count; i++) { total = total + reduce_f32[i]; }
  return total;
#else
  reduce_f32[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_f32[thread];
      reduce_f32[thread] = total + reduce_f32[thread + stride];
    }
    workgroupBarrier();
  }
  return reduce_f32[0];
#end
}

fn workgroup_max_f32(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroupMax(value);
  if (subgroup_lane == 0u) { reduce_f32[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_f32[0];
  for (var i = 1u; i < subgroup_count; i++) { total = max(total, reduce_f32[i]); }
  return total;
#else
  reduce_f32[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_f32[thread];
      reduce_f32[thread] = max(total, reduce_f32[thread + stride]);
    }
    workgroupBarrier();
  }
  return reduce_f32[0];
#end
}

fn workgroup_sum_u32(value: u32, thread: u32) -> u32 {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroupAdd(value);
  if (subgroup_lane == 0u) { reduce_u32[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_u32[0];
  for (var i = 1u; i < subgroup_count; i++) { total = total + reduce_u32[i]; }
  return total;
#else
  reduce_u32[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_u32[thread];
      reduce_u32[thread] = total + reduce_u32[thread + stride];
    }
    workgroupBarrier();
  }
  return reduce_u32[0];
#end
}

fn workgroup_max_u32(value: u32, thread: u32) -> u32 {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroupMax(value);
  if (subgroup_lane == 0u) { reduce_u32[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_u32[0];
  for (var i = 1u; i < subgroup_count; i++) { total = max(total, reduce_u32[i]); }
  return total;
#else
  reduce_u32[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_u32[thread];
      reduce_u32[thread] = max(total, reduce_u32[thread + stride]);
    }
    workgroupBarrier();
  }
  return reduce_u32[0];
#end
}

fn workgroup_min_u32(value: u32, thread: u32) -> u32 {
  workgroupBarrier();
#if SUBGROUPS
  let own = subgroupMin(value);
  if (subgroup_lane == 0u) { reduce_u32[subgroup_index] = own; }
  workgroupBarrier();
  var total = reduce_u32[0];
  for (var i = 1u; i < subgroup_count; i++) { total = min(total, reduce_u32[i]); }
  return total;
#else
  reduce_u32[thread] = value;
  workgroupBarrier();
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    if (thread < stride) {
      let total = reduce_u32[thread];
      reduce_u32[thread] = min(total, reduce_u32[thread + stride]);
    }
    workgroupBarrier();
  }
  return reduce_u32[0];
#end
}
