//! Sums over ranks with bits that do not depend on how many ranks there are.
//!
//! Every element is summed in the binary tree over ranks: neighbours first, (0 + 1), (2 + 3), then their sums, and so on.
//! A rank whose own values are the sum of consecutive micro-batches in the same kind of tree continues that tree, so
//! 1, 2, 4 and 8 ranks add the same numbers in the same order. IEEE addition is commutative: who of a pair adds does
//! not matter.
//!
//! Recursive halving, then doubling (Rabenseifner 2004): at distance 1, 2, 4, … a pair shares out what it still has to
//! sum, each sends the other's half and adds the half it receives; then they hand the sums back the same way. Each
//! rank sends 2 · (1 − 1/N) · n values in 2 · log2 N rounds, as little as any algorithm can.

use crate::kernels::add::add;
use crate::pool::Pool;
use std::ops::Range;

/// Exchanges bytes with another rank.
pub trait Link {
    fn rank(&self) -> usize;
    /// a power of two
    fn size(&self) -> usize;
    /// Sends bytes to `partner` while receiving as many from it as `receive` holds.
    fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<(), String>;
    /// Sends bytes to `partner` while receiving `len` from it, in parts of PART bytes: `received` gets each, and where it
    /// begins, while the next ones travel. `room` holds IN_FLIGHT parts.
    fn stream(
        &mut self,
        partner: usize,
        send: &[u8],
        len: usize,
        room: &mut [u8],
        received: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), String>;
}

/// Bytes of a part of a stream. Large: where other programs want the processors, too, each time that two ranks wait for each
/// other may cost milliseconds. With 1 MB Open MPI 5 took 1.8 times as long as its own sum, with 8 MB as long (load 6 to 11).
#[cfg(not(test))]
pub const PART: usize = 8 << 20;
/// Tests see many parts of little.
#[cfg(test)]
pub const PART: usize = 4096;
/// The most parts on their way.
pub const IN_FLIGHT: usize = 2;

/// How values travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire {
    /// as they are
    F32,
    /// rounded to bf16: half the bytes. The sum then depends on the number of ranks; all ranks still get the same
    Bf16,
}

/// Halves begin at a cache line.
const LINE: usize = 16;

/// A range of values that a pair of ranks shares out.
struct Halves {
    partner: usize,
    range: Range<usize>,
    middle: usize,
    /// this rank sums what lies before the middle; the partner sums the rest
    low: bool,
}

impl Halves {
    fn new(range: Range<usize>, rank: usize, distance: usize) -> Halves {
        let middle = range.start + (range.len() / 2).next_multiple_of(LINE).min(range.len());
        Halves { partner: rank ^ distance, range, middle, low: rank & distance == 0 }
    }

    fn mine(&self) -> Range<usize> {
        if self.low { self.range.start..self.middle } else { self.middle..self.range.end }
    }

    /// My half of `values`, and the partner's.
    fn of<'a>(&self, values: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        let (low, high) = values[self.range.clone()].split_at_mut(self.middle - self.range.start);
        if self.low { (low, high) } else { (high, low) }
    }
}

/// Memory for messages, kept from call to call.
#[derive(Default)]
pub struct Scratch {
    /// IN_FLIGHT parts; of u32 for its alignment
    room: Vec<u32>,
    halves: Vec<u16>,
}

/// values = their sum over all ranks, the same bits on each.
pub fn sum(
    link: &mut impl Link,
    pool: &mut Pool,
    values: &mut [f32],
    wire: Wire,
    scratch: &mut Scratch,
) -> Result<(), String> {
    let mut range = 0..values.len();
    let mut rounds = Vec::new();
    let mut distance = 1;
    while distance < link.size() {
        let halves = Halves::new(range, link.rank(), distance);
        let (mine, theirs) = halves.of(values);
        match wire {
            Wire::F32 => add_half(link, pool, halves.partner, mine, theirs, scratch)?,
            Wire::Bf16 => add_half_bf16(link, halves.partner, mine, theirs, scratch)?,
        }
        range = halves.mine();
        rounds.push(halves);
        distance *= 2;
    }
    if wire == Wire::Bf16 && !rounds.is_empty() {
        // as the others will see it
        values[range].iter_mut().for_each(|value| *value = from_bf16(to_bf16(*value)));
    }
    for halves in rounds.iter().rev() {
        let (mine, theirs) = halves.of(values);
        match wire {
            Wire::F32 => link.exchange(halves.partner, bytes(mine), bytes_mut(theirs))?,
            Wire::Bf16 => hand_back_bf16(link, halves.partner, mine, theirs, scratch)?,
        }
    }
    Ok(())
}

/// My half += the partner's values of it; it gets mine of its half.
fn add_half(
    link: &mut impl Link,
    pool: &mut Pool,
    partner: usize,
    mine: &mut [f32],
    theirs: &mut [f32],
    Scratch { room, .. }: &mut Scratch,
) -> Result<(), String> {
    room.resize(IN_FLIGHT * PART / 4, 0);
    link.stream(partner, bytes(theirs), size_of_val(mine), bytes_mut(room), &mut |at, part| {
        let part = numbers::<f32>(part);
        add(pool, &mut mine[at / 4..][..part.len()], part);
    })
}

/// The same with half the bytes.
fn add_half_bf16(
    link: &mut impl Link,
    partner: usize,
    mine: &mut [f32],
    theirs: &mut [f32],
    Scratch { room, halves }: &mut Scratch,
) -> Result<(), String> {
    room.resize(IN_FLIGHT * PART / 4, 0);
    to_halves(halves, theirs);
    link.stream(partner, bytes(halves), 2 * mine.len(), bytes_mut(room), &mut |at, part| {
        let part = numbers::<u16>(part);
        mine[at / 2..].iter_mut().zip(part).for_each(|(value, other)| *value += from_bf16(*other));
    })
}

/// Sends my sums and receives the partner's; mine are bf16 already.
fn hand_back_bf16(
    link: &mut impl Link,
    partner: usize,
    mine: &mut [f32],
    theirs: &mut [f32],
    Scratch { room, halves }: &mut Scratch,
) -> Result<(), String> {
    to_halves(halves, mine);
    link.stream(partner, bytes(halves), 2 * theirs.len(), bytes_mut(room), &mut |at, part| {
        let part = numbers::<u16>(part);
        theirs[at / 2..].iter_mut().zip(part).for_each(|(value, other)| *value = from_bf16(*other));
    })
}

/// Adds up (or takes the largest of) a few values over all ranks: each pair exchanges all of them, in log2 N rounds.
pub fn combine(link: &mut impl Link, values: &mut [f64], largest: bool) -> Result<(), String> {
    let mut received = vec![0.0; values.len()];
    let mut distance = 1;
    while distance < link.size() {
        link.exchange(link.rank() ^ distance, bytes(values), bytes_mut(&mut received))?;
        for (value, &other) in values.iter_mut().zip(&received) {
            *value = if largest { value.max(other) } else { *value + other };
        }
        distance *= 2;
    }
    Ok(())
}

/// The upper half of the bits, rounded to the nearest, to even where there are two. NaN stays NaN.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn to_halves(halves: &mut Vec<u16>, values: &[f32]) {
    halves.clear();
    halves.extend(values.iter().map(|&value| to_bf16(value)));
}

/// Plain numbers without padding, of which any bits are valid.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for u16 {}
impl Plain for u32 {}

/// Bytes of a part, which begin at a multiple of four.
fn numbers<T: Plain>(bytes: &[u8]) -> &[T] {
    // SAFETY: any bytes are such numbers.
    let (before, numbers, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty());
    numbers
}

fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers are bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: plain numbers are bytes, and any bytes are such numbers.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// Ranks that are threads of this process.
    struct Threads {
        rank: usize,
        to: Vec<Sender<Vec<u8>>>,
        from: Vec<Receiver<Vec<u8>>>,
    }

    impl Link for Threads {
        fn rank(&self) -> usize {
            self.rank
        }
        fn size(&self) -> usize {
            self.to.len()
        }
        fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<(), String> {
            self.to[partner].send(send.to_vec()).unwrap();
            let message = self.from[partner].recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(message.len(), receive.len(), "a pair disagrees on a length");
            receive.copy_from_slice(&message);
            Ok(())
        }
        fn stream(
            &mut self,
            partner: usize,
            send: &[u8],
            len: usize,
            room: &mut [u8],
            received: &mut dyn FnMut(usize, &[u8]),
        ) -> Result<(), String> {
            for at in (0..send.len().max(len)).step_by(PART) {
                let part = |len: usize| at.min(len)..(at + PART).min(len);
                let room = &mut room[..part(len).len()];
                self.exchange(partner, &send[part(send.len())], room)?;
                if at < len {
                    received(at, room);
                }
            }
            Ok(())
        }
    }

    /// Calls `body` on each of `size` ranks; what they return.
    fn on_ranks<T: Send>(size: usize, body: impl Fn(&mut Threads) -> T + Sync) -> Vec<T> {
        let mut links: Vec<Threads> =
            (0..size).map(|rank| Threads { rank, to: Vec::new(), from: Vec::new() }).collect();
        for from in 0..size {
            for to in 0..size {
                let (sender, receiver) = channel();
                links[from].to.push(sender);
                links[to].from.push(receiver);
            }
        }
        std::thread::scope(|scope| {
            let body = &body;
            let ranks = links.iter_mut().map(|link| scope.spawn(move || body(link))).collect::<Vec<_>>();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    /// Values of very different size, so that the order of additions shows.
    fn micro_batch(index: usize, len: usize) -> Vec<f32> {
        let noise = |i: usize| ((i * 7919 + index * 104_729) % 1009) as f32 / 300.0 - 1.7;
        (0..len).map(|i| noise(i) * 10f32.powi((i + 3 * index) as i32 % 7 - 3)).collect()
    }

    /// The sum of micro-batches in a binary tree.
    fn tree(batches: Range<usize>, len: usize) -> Vec<f32> {
        if batches.len() == 1 {
            return micro_batch(batches.start, len);
        }
        let middle = batches.start + batches.len() / 2;
        let mut sum = tree(batches.start..middle, len);
        add(&mut Pool::new(1).unwrap(), &mut sum, &tree(middle..batches.end, len));
        sum
    }

    fn sums(size: usize, len: usize, wire: Wire) -> Vec<Vec<f32>> {
        on_ranks(size, |link| {
            let own = 8 / link.size() * link.rank()..8 / link.size() * (link.rank() + 1);
            let mut values = tree(own, len);
            let (mut pool, mut scratch) = (Pool::new(1).unwrap(), Scratch::default());
            sum(link, &mut pool, &mut values, wire, &mut scratch).unwrap();
            values
        })
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn any_number_of_ranks_gives_the_same_bits() {
        for len in [0, 1, 15, 16, 17, 100, 1000, PART + 5] {
            let expected = bits(&tree(0..8, len));
            for size in [1, 2, 4, 8] {
                for sum in sums(size, len, Wire::F32) {
                    assert_eq!(bits(&sum), expected, "{len} values, {size} ranks");
                }
            }
        }
        // the order does show: added one after the other, the same numbers give other bits
        let sequential = (1..8).fold(micro_batch(0, 1000), |sum, i| {
            sum.iter().zip(micro_batch(i, 1000)).map(|(a, b)| a + b).collect()
        });
        assert_ne!(bits(&sequential), bits(&tree(0..8, 1000)));
    }

    #[test]
    fn bf16_gives_all_ranks_the_same_to_its_precision() {
        for len in [1, 17, 1000, PART / 4 + 3] {
            let expected = tree(0..8, len);
            let sums = sums(4, len, Wire::Bf16);
            for sum in &sums {
                assert_eq!(bits(sum), bits(&sums[0]));
                let largest = (0..8).map(|i| micro_batch(i, len)).collect::<Vec<_>>();
                for i in 0..len {
                    let size: f32 = largest.iter().map(|batch| batch[i].abs()).sum();
                    assert!((sum[i] - expected[i]).abs() <= size / 64.0, "{} {}", sum[i], expected[i]);
                }
            }
        }
    }

    #[test]
    fn a_few_values_are_added_or_compared() {
        for size in [1, 2, 8] {
            let all = on_ranks(size, |link| {
                let (mut sums, mut largest) = ([link.rank() as f64, 0.5], [link.rank() as f64, -1.0]);
                combine(link, &mut sums, false).unwrap();
                combine(link, &mut largest, true).unwrap();
                (sums, largest)
            });
            let last = size as f64 - 1.0;
            let expected = ([last * (last + 1.0) / 2.0, 0.5 * size as f64], [last, -1.0]);
            assert!(all.iter().all(|one| *one == expected));
        }
    }

    #[test]
    fn bf16_rounds_to_the_nearest_even_and_keeps_what_is_not_finite() {
        let rounded = |value: f32| from_bf16(to_bf16(value));
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 1.0 / 64.0);
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert_eq!(rounded(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(rounded(f32::from_bits(0x7f80_0001)).is_nan());
    }
}
