//! Objects that live on this side of the boundary, known to the other side by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A table of objects of one kind. Numbers start at 1 and are not used again.
pub struct Handles<T> {
    kind: &'static str,
    next: AtomicU32,
    objects: Mutex<Option<HashMap<u32, Arc<T>>>>,
}

impl<T> Handles<T> {
    /// An empty table; `kind` names its objects in messages.
    pub const fn new(kind: &'static str) -> Self {
        Self { kind, next: AtomicU32::new(1), objects: Mutex::new(None) }
    }

    /// Keeps an object and returns its handle.
    pub fn insert(&self, object: T) -> Result<u32, String> {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        if handle == 0 {
            return Err(format!("too many {} handles", self.kind));
        }
        self.table().get_or_insert_default().insert(handle, Arc::new(object));
        Ok(handle)
    }

    /// The object of a handle. It stays whole while the caller uses it, even if it is removed meanwhile.
    pub fn get(&self, handle: u32) -> Result<Arc<T>, String> {
        self.table()
            .as_ref()
            .and_then(|objects| objects.get(&handle).cloned())
            .ok_or_else(|| self.unknown(handle))
    }

    /// Forgets an object.
    pub fn remove(&self, handle: u32) -> Result<(), String> {
        match self.table().as_mut().and_then(|objects| objects.remove(&handle)) {
            Some(_) => Ok(()),
            None => Err(self.unknown(handle)),
        }
    }

    fn unknown(&self, handle: u32) -> String {
        format!("there is no {} {handle}, or it was freed", self.kind)
    }

    /// A panic cannot leave the map half-changed, so a poisoned lock is as good as a clean one.
    fn table(&self) -> MutexGuard<'_, Option<HashMap<u32, Arc<T>>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_until_removed() {
        let words = Handles::new("word");
        let a = words.insert("a").unwrap();
        let b = words.insert("b").unwrap();
        assert_eq!((*words.get(a).unwrap(), *words.get(b).unwrap()), ("a", "b"));
        words.remove(a).unwrap();
        assert_eq!(words.get(a).unwrap_err(), format!("there is no word {a}, or it was freed"));
        assert!(words.remove(a).is_err());
        assert_eq!(*words.get(b).unwrap(), "b");
    }
}
