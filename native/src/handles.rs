//! Objects that live on this side of the boundary, known to the other side by number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No object has this number.
pub const NONE: u32 = u32::MAX;

/// The number that was given out last. All tables count together, so that the number of a freed object, of another
/// kind of object, or of another device's tensor names nothing.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Hashes consecutive numbers, which nobody chooses: a kernel of a small model looks up ten operands in a
/// microsecond, and the default hash would be a good part of that.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }
    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2⁶⁴ / golden ratio
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Objects of one kind by number. Only those that are alive take memory.
pub struct Table<T> {
    kind: &'static str,
    objects: HashMap<u32, T, BuildHasherDefault<Spread>>,
}

impl<T> Table<T> {
    /// An empty table; `kind` names its objects in messages.
    pub const fn new(kind: &'static str) -> Self {
        Self { kind, objects: HashMap::with_hasher(BuildHasherDefault::new()) }
    }

    /// Keeps an object and returns its number.
    pub fn insert(&mut self, object: T) -> u32 {
        loop {
            // After 2³² objects the count starts over, skipping those that are still alive.
            let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if number != 0 && number != NONE && !self.objects.contains_key(&number) {
                self.objects.insert(number, object);
                return number;
            }
        }
    }

    /// The object with this number.
    pub fn get(&self, number: u32) -> Result<&T, String> {
        self.objects.get(&number).ok_or_else(|| unknown(self.kind, number))
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, number: u32) -> Result<&mut T, String> {
        self.objects.get_mut(&number).ok_or_else(|| unknown(self.kind, number))
    }

    /// Forgets an object and returns it; None when there is none with this number.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        self.objects.remove(&number)
    }

    /// Objects that are alive.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

fn unknown(kind: &str, number: u32) -> String {
    format!("there is no {kind} {number}, or it was freed")
}

/// A table that threads share.
pub struct Handles<T>(Mutex<Table<Arc<T>>>);

impl<T> Handles<T> {
    /// An empty table; `kind` names its objects in messages.
    pub const fn new(kind: &'static str) -> Self {
        Self(Mutex::new(Table::new(kind)))
    }

    /// Keeps an object and returns its number.
    pub fn insert(&self, object: T) -> u32 {
        self.table().insert(Arc::new(object))
    }

    /// The object with this number. It stays valid while the caller uses it, even if it is removed meanwhile.
    pub fn get(&self, number: u32) -> Result<Arc<T>, String> {
        self.table().get(number).cloned()
    }

    /// Frees an object. Does nothing when it is gone already, so that owners may free it twice and in any order.
    pub fn remove(&self, number: u32) {
        let removed = self.table().remove(number);
        // Dropped here, after the table is unlocked: dropping a device waits for its threads.
        drop(removed);
    }

    /// A panic cannot leave the map half-changed, so a poisoned lock is as good as a clean one.
    fn table(&self) -> MutexGuard<'_, Table<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_until_removed() {
        let words = Handles::new("word");
        let (a, b) = (words.insert("a"), words.insert("b"));
        assert_eq!((*words.get(a).unwrap(), *words.get(b).unwrap()), ("a", "b"));
        words.remove(a);
        assert_eq!(words.get(a).unwrap_err(), format!("there is no word {a}, or it was freed"));
        words.remove(a);
        words.remove(NONE);
        assert_eq!(*words.get(b).unwrap(), "b");
    }

    #[test]
    fn what_was_freed_leaves_nothing_behind() {
        let mut words = Table::new("word");
        let kept = words.insert(0);
        for i in 0..10_000 {
            let number = words.insert(i);
            assert_eq!(words.remove(number), Some(i));
            assert_eq!(words.remove(number), None);
        }
        assert_eq!((words.len(), words.get(kept)), (1, Ok(&0)));
    }

    #[test]
    fn a_number_of_another_table_names_nothing() {
        let (mut words, mut numbers) = (Table::new("word"), Table::new("number"));
        let (word, number) = (words.insert("a"), numbers.insert(1));
        assert!(words.get(number).is_err() && numbers.get_mut(word).is_err());
    }

    #[test]
    fn a_poisoned_table_goes_on() {
        let words = Handles::new("word");
        let a = words.insert("a");
        std::thread::scope(|scope| {
            let poison = scope.spawn(|| {
                let _held = words.table();
                panic!("while the table is locked");
            });
            assert!(poison.join().is_err());
        });
        assert_eq!(*words.get(a).unwrap(), "a");
    }
}
