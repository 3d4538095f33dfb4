// Draws the next token of each row.  logits: [N, V] f32   tokens, positions, sequences: u32 [N]   seeds: u32 [sequences]
// settings: f32 [sequences, 24], see `samplingRow`   output: u32 [steps, N]   said: u32 [sequences, V], where there are PENALTIES
// One workgroup a row. Suppressed ids never count. Then, as in `Sampling`:
//   penalties, each time that a logit is read.
//   temperature ≤ 0, or an infinite logit: the largest logit, the lowest id among equals.
//   top-k: a logit counts when it is at least the k-th largest. Found bit by bit on the logits' bits as ordered integers: the
//     largest threshold that k logits reach, 32 counts over V, exact, equals included.
//   top-p: the same search for the largest threshold whose logits together hold the mass asked for: the most probable ones that
//     reach it, and all equal to the last of them.
//   min-p: masses are relative to the largest, which is 1.
//   The draw: each thread sums a stretch of ids, a scan over the stretches finds the first where the cumulative mass
//     exceeds u · total, and its thread the id in it: the first id in order whose cumulative mass exceeds the draw.
//   NaN and −∞ are never drawn; where nothing else is left, id 0.
// u is `uniform(seeds[sequence], position)` of device/random.ts, in u32 arithmetic.
// Cost: reads 2·V, and 32·V from cache for each of top-k and top-p; writes three numbers.

const PLUS_INFINITY = 0x7f800000u;
const IN_PROMPT = 0x80000000u;

// The row's settings, for what is computed. What decides where barriers stand is read by the kernel itself: Tint takes private
// variables for numbers that may differ between threads.
var<private> sequence: u32;
var<private> temperature: f32;
var<private> top_k: u32;
var<private> top_p: f32;
var<private> min_p: f32;
#for s in 0..8
var<private> first_suppressed$s: u32;
var<private> end_suppressed$s: u32;
#end

fn setting(sequence: u32, i: u32) -> f32 { return settings_load(sequence * 24u + i); }

fn load_settings(own: u32) {
  sequence = own;
  temperature = setting(own, 0u);
  top_k = u32(setting(own, 1u));
  top_p = setting(own, 2u);
  min_p = setting(own, 3u);
#for s in 0..8
  first_suppressed$s = u32(setting(own, 8u + 2u * $su));
  end_suppressed$s = u32(setting(own, 9u + 2u * $su));
#end
}

#if PENALTIES
// Bits of a finite logit, lowered when its id was said.
fn penalized(bits: u32, id: u32) -> u32 {
  let count = said_load(sequence * p.V + id);
  if (count == 0u) { return bits; }
  let drawn = count & ~IN_PROMPT;
  let logit = bitcast<f32>(bits);
  let repetition = setting(sequence, 4u);
  let presence = select(0.0, setting(sequence, 6u), drawn > 0u);
  let repeated = select(logit * repetition, logit / repetition, logit > 0.0);
  return bitcast<u32>(repeated - (setting(sequence, 5u) * f32(drawn) + presence));
}
#end

// An order of u32 that is the order of the floats; 0 for what may not be drawn, −0 as 0. By the bits: compilers may assume
// that floats are finite.
fn rank(row: u32, id: u32) -> u32 {
#for s in 0..8
  if (id >= first_suppressed$s && id < end_suppressed$s) { return 0u; }
#end
  var bits = bitcast<u32>(logits_load(row * p.V + id));
  if ((bits & 0x7fffffffu) > PLUS_INFINITY || bits == (PLUS_INFINITY | 0x80000000u)) { return 0u; }
#if PENALTIES
  if (bits != PLUS_INFINITY) { bits = penalized(bits, id); }
#end
  if (bits == 0x80000000u) { return bits; }
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn rank_value(ranked: u32) -> f32 {
  return bitcast<f32>(select(~ranked, ranked & 0x7fffffffu, ranked >= 0x80000000u));
}

// Unnormalised probability of an id, 0 where its rank is below the threshold.
fn mass(row: u32, id: u32, threshold: u32, largest: f32) -> f32 {
  let ranked = rank(row, id);
  if (ranked == 0u || ranked < threshold) { return 0.0; }
  return exp((rank_value(ranked) - largest) / temperature);
}

// The same, 0 below min-p.
fn kept_mass(row: u32, id: u32, threshold: u32, largest: f32) -> f32 {
  let m = mass(row, id, threshold, largest);
  return select(m, 0.0, m < min_p);
}

fn uniform_draw(seed: u32, counter: u32) -> f32 {
  return f32(draw_bits(seed, counter)) / 16777216.0;
}

fn kth_rank(row: u32, thread: u32) -> u32 {
  var threshold = 0u;
  for (var bit = 0u; bit < 32u; bit++) {
    let candidate = threshold | (0x80000000u >> bit);
    var count = 0u;
    for (var id = thread; id < p.V; id += THREADS) { count += select(0u, 1u, rank(row, id) >= candidate); }
    if (workgroup_sum_u32(count, thread) >= top_k) { threshold = candidate; }
  }
  return threshold;
}

fn total_mass(row: u32, threshold: u32, largest: f32, thread: u32) -> f32 {
  var sum = 0.0;
  for (var id = thread; id < p.V; id += THREADS) { sum += mass(row, id, threshold, largest); }
  return workgroup_sum_f32(sum, thread);
}

fn nucleus_rank(row: u32, from_: u32, top: u32, thread: u32) -> u32 {
  let largest = rank_value(top);
  let wanted = top_p * total_mass(row, from_, largest, thread);
  var threshold = 0u;
  for (var bit = 0u; bit < 32u; bit++) {
    let candidate = threshold | (0x80000000u >> bit);
    if (total_mass(row, max(candidate, from_), largest, thread) >= wanted) { threshold = candidate; }
  }
  // A top_p of 0 is reached with no token at all: the most probable ones stay.
  return min(max(threshold, from_), top);
}

var<workgroup> scan: array<f32, THREADS>;
var<workgroup> chosen: u32;

// The first id whose cumulative mass exceeds u · total. The scan adds up each place in another order, so that by rounding a place may be
// less than the one before it, and several stretches, or none, seem to hold the draw: the first of them has it, or
// else the last that has any mass.
fn draw(row: u32, threshold: u32, largest: f32, u: f32, thread: u32) -> u32 {
  let stretch = (p.V + THREADS - 1u) / THREADS;
  let first = min(thread * stretch, p.V);
  let last = min(first + stretch, p.V);
  var own = 0.0;
  for (var id = first; id < last; id++) { own += kept_mass(row, id, threshold, largest); }
  scan[thread] = own;
  workgroupBarrier();
  for (var stride = 1u; stride < THREADS; stride *= 2u) {
    var left = 0.0;
    if (thread >= stride) { left = scan[thread - stride]; }
    workgroupBarrier();
    scan[thread] += left;
    workgroupBarrier();
  }
  let wanted = u * scan[THREADS - 1u];
  let holder = workgroup_min_u32(select(THREADS, thread, own > 0.0 && wanted < scan[thread]), thread);
  let last_with_mass = workgroup_max_u32(select(0u, thread, own > 0.0), thread);
  if (thread == select(holder, last_with_mass, holder == THREADS)) {
    var cumulative = 0.0;
    if (thread > 0u) { cumulative = scan[thread - 1u]; }
    for (var id = first; id < last; id++) {
      let m = kept_mass(row, id, threshold, largest);
      if (m > 0.0) {
        chosen = id;
        cumulative += m;
        if (cumulative > wanted) { break; }
      }
    }
  }
  workgroupBarrier();
  return chosen;
}

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.y * groups.x;
  if (row >= p.N) { return; }
  let own = sequences_load(row);
  load_settings(own);
  var best = 0u;
  var best_id = 0xffffffffu;
  for (var id = thread; id < p.V; id += THREADS) {
    let ranked = rank(row, id);
    if (ranked > best) { best = ranked; best_id = id; }
  }
  let top = workgroup_max_u32(best, thread);
  var next = workgroup_min_u32(select(0xffffffffu, best_id, best == top), thread);
  // Nothing that may be drawn: id 0, as good as any.
  if (next == 0xffffffffu) { next = 0u; }
  let position = positions_load(row);
  // Barriers stand where all threads come whatever they found: Tint takes `top`, from workgroup memory, for a number that may differ.
  if (setting(own, 0u) > 0.0) {
    let largest = rank_value(top);
    var threshold = 1u;
    let k = u32(setting(own, 1u));
    if (k > 0u && k < p.V) { threshold = max(threshold, kth_rank(row, thread)); }
    if (setting(own, 2u) < 1.0) { threshold = nucleus_rank(row, threshold, top, thread); }
    let drawn = draw(row, threshold, largest, uniform_draw(seeds_load(own), position), thread);
    if (top != 0u && top != (PLUS_INFINITY | 0x80000000u)) { next = drawn; }
  }
  // All threads have read the position before it moves on.
  workgroupBarrier();
  if (thread == 0u) {
    tokens_store(row, next);
    positions_store(row, position + 1u);
    output_store(p.step * p.stride + row, next);
#if PENALTIES
    let place = sequence * p.V + next;
    said_store(place, said_load(place) + 1u);
#end
  }
}
