//! Typed ids, the arenas they index and side tables over them.
//!
//! Every IR keeps its entities in an [`IdVec`] and refers to them by a `u32` newtype made with [`entity_id!`](crate::entity_id).
//! Facts computed by analyses live in a [`SideTable`] or an [`IdSet`], never in the IR itself.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A typed index into an [`IdVec`]. Implemented by [`entity_id!`](crate::entity_id) alone.
pub trait EntityId: Copy + Eq + Ord + std::hash::Hash + fmt::Debug + fmt::Display {
    /// The id with this index.
    ///
    /// # Panics
    /// If `index` does not fit in 32 bits: an arena never grows that far before memory ends.
    fn from_index(index: usize) -> Self;
    /// The position in the arena.
    fn index(self) -> usize;
}

/// Declares a `u32` newtype that implements [`EntityId`] and prints as its prefix followed by the number.
///
/// ```
/// lockstep_graph::entity_id!(/// A thing.
///     pub ThingId, "th");
/// use lockstep_graph::EntityId;
/// assert_eq!(ThingId::from_index(3).to_string(), "th3");
/// ```
#[macro_export]
macro_rules! entity_id {
    ($(#[$meta:meta])* $vis:vis $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(u32);

        impl $crate::entity::EntityId for $name {
            fn from_index(index: usize) -> Self {
                match u32::try_from(index) {
                    Ok(index) => Self(index),
                    Err(_) => panic!("too many entities"),
                }
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }
    };
}

/// An arena: entities of type `T` under dense ids, in the order of insertion.
#[derive(Clone, PartialEq, Eq)]
pub struct IdVec<I, T> {
    items: Vec<T>,
    marker: PhantomData<fn(I)>,
}

impl<I: EntityId, T> IdVec<I, T> {
    /// An empty arena.
    pub fn new() -> Self {
        Self {
            items: Vec::new(),
            marker: PhantomData,
        }
    }

    /// Appends `item` and returns its id.
    pub fn push(&mut self, item: T) -> I {
        let id = I::from_index(self.items.len());
        self.items.push(item);
        id
    }

    /// The id that the next [`push`](Self::push) returns.
    pub fn next_id(&self) -> I {
        I::from_index(self.items.len())
    }

    /// Number of entities.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no entity.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The entity, or `None` if the id is from elsewhere and out of range.
    pub fn get(&self, id: I) -> Option<&T> {
        self.items.get(id.index())
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = I> + ExactSizeIterator + use<I, T> {
        (0..self.items.len()).map(I::from_index)
    }

    /// Ids with their entities, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (I, &T)> + ExactSizeIterator {
        self.items
            .iter()
            .enumerate()
            .map(|(index, item)| (I::from_index(index), item))
    }

    /// Ids with their entities, mutable, ascending.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (I, &mut T)> + ExactSizeIterator {
        self.items
            .iter_mut()
            .enumerate()
            .map(|(index, item)| (I::from_index(index), item))
    }

    /// The entities alone, ascending.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// The entities as a slice, indexed by [`EntityId::index`].
    pub fn as_slice(&self) -> &[T] {
        &self.items
    }
}

impl<I: EntityId, T> Default for IdVec<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: EntityId, T> FromIterator<T> for IdVec<I, T> {
    fn from_iter<It: IntoIterator<Item = T>>(items: It) -> Self {
        Self {
            items: items.into_iter().collect(),
            marker: PhantomData,
        }
    }
}

impl<I: EntityId, T> Index<I> for IdVec<I, T> {
    type Output = T;
    fn index(&self, id: I) -> &T {
        &self.items[id.index()]
    }
}

impl<I: EntityId, T> IndexMut<I> for IdVec<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.items[id.index()]
    }
}

impl<I: EntityId, T: fmt::Debug> fmt::Debug for IdVec<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A fact of type `T` per entity; entities without an entry have the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideTable<I, T> {
    items: Vec<T>,
    default: T,
    marker: PhantomData<fn(I)>,
}

impl<I: EntityId, T: Clone> SideTable<I, T> {
    /// A table in which every entity has the fact `default`.
    pub fn with_default(default: T) -> Self {
        Self {
            items: Vec::new(),
            default,
            marker: PhantomData,
        }
    }

    /// The fact of `id`, mutable; grows the table as needed.
    pub fn entry(&mut self, id: I) -> &mut T {
        if self.items.len() <= id.index() {
            self.items.resize(id.index() + 1, self.default.clone());
        }
        &mut self.items[id.index()]
    }

    /// Ids and facts of all entities up to the highest one set.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.items
            .iter()
            .enumerate()
            .map(|(index, item)| (I::from_index(index), item))
    }
}

impl<I: EntityId, T: Clone + Default> SideTable<I, T> {
    /// A table in which every entity has the fact `T::default()`.
    pub fn new() -> Self {
        Self::with_default(T::default())
    }
}

impl<I: EntityId, T: Clone + Default> Default for SideTable<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: EntityId, T> Index<I> for SideTable<I, T> {
    type Output = T;
    fn index(&self, id: I) -> &T {
        self.items.get(id.index()).unwrap_or(&self.default)
    }
}

impl<I: EntityId, T: Clone> IndexMut<I> for SideTable<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        self.entry(id)
    }
}

/// A set of entities as a bit set; iterates in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdSet<I> {
    words: Vec<u64>,
    len: usize,
    marker: PhantomData<fn(I)>,
}

impl<I: EntityId> IdSet<I> {
    /// The empty set.
    pub fn new() -> Self {
        Self {
            words: Vec::new(),
            len: 0,
            marker: PhantomData,
        }
    }

    /// Adds `id`; false if it was there already.
    pub fn insert(&mut self, id: I) -> bool {
        let (word, bit) = (id.index() / 64, 1u64 << (id.index() % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += usize::from(new);
        new
    }

    /// Removes `id`; false if it was not there.
    pub fn remove(&mut self, id: I) -> bool {
        let had = self.contains(id);
        if had {
            self.words[id.index() / 64] &= !(1u64 << (id.index() % 64));
            self.len -= 1;
        }
        had
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: I) -> bool {
        self.words
            .get(id.index() / 64)
            .is_some_and(|word| word & (1u64 << (id.index() % 64)) != 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = I> + '_ {
        self.words.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64)
                .filter(move |bit| bits & (1u64 << bit) != 0)
                .map(move |bit| I::from_index(word * 64 + bit))
        })
    }
}

impl<I: EntityId> Default for IdSet<I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: EntityId> FromIterator<I> for IdSet<I> {
    fn from_iter<It: IntoIterator<Item = I>>(ids: It) -> Self {
        let mut set = Self::new();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    entity_id!(TestId, "q");

    #[test]
    fn arena_and_tables() {
        let mut arena: IdVec<TestId, &str> = IdVec::new();
        let (a, b) = (arena.push("a"), arena.push("b"));
        assert_eq!((arena[a], arena[b], b.to_string().as_str()), ("a", "b", "q1"));
        let mut table = SideTable::with_default(7);
        table[b] = 9;
        assert_eq!((table[a], table[b], table[TestId::from_index(99)]), (7, 9, 7));
    }

    #[test]
    fn set_iterates_in_order() {
        let mut set: IdSet<TestId> = [200usize, 3, 64, 3].into_iter().map(TestId::from_index).collect();
        assert_eq!(set.len(), 3);
        assert!(set.remove(TestId::from_index(64)) && !set.remove(TestId::from_index(64)));
        assert_eq!(set.iter().map(EntityId::index).collect::<Vec<_>>(), [3, 200]);
    }
}
