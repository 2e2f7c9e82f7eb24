//! A list of connections in order of age: eight bytes for each.
//!
//! Owns the order and nothing else. There is one of these for each topic, and a connection is in as many as it follows:
//! a map from ids took four times as much.

use std::sync::Arc;

use super::Member;
use crate::domain::ConnectionId;

/// How many connections move at most when one comes or goes in the middle.
const CHUNK: usize = 256;

/// Connections, oldest first; each id once.
#[derive(Debug)]
pub(super) struct ByAge<C> {
    /// None of them is empty.
    chunks: Vec<Vec<Arc<C>>>,
    len: usize,
}

impl<C> Default for ByAge<C> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<C: Member> ByAge<C> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<C>> {
        self.chunks.iter().flatten()
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Arc<C>> {
        let (chunk, place) = self.find(id);
        self.chunks.get(chunk)?.get(place.ok()?)
    }

    /// It takes the place of one with the same id.
    pub(super) fn insert(&mut self, connection: Arc<C>) {
        let (at, place) = match self.find(connection.id()) {
            (at, Err(place)) => (at, place),
            (at, Ok(place)) => {
                self.chunks[at][place] = connection;
                return;
            }
        };
        self.len += 1;
        let is_last = at + 1 >= self.chunks.len();
        match self.chunks.get_mut(at) {
            Some(chunk) if chunk.len() < CHUNK => chunk.insert(place, connection),
            Some(_) if is_last && place == CHUNK => self.chunks.push(vec![connection]),
            Some(chunk) => {
                let mut upper = chunk.split_off(CHUNK / 2);
                match place.checked_sub(CHUNK / 2) {
                    Some(place) => upper.insert(place, connection),
                    None => chunk.insert(place, connection),
                }
                self.chunks.insert(at + 1, upper);
            }
            None => {
                // Most topics never have a second chunk.
                self.chunks.reserve_exact(1);
                self.chunks.push(vec![connection]);
            }
        }
    }

    /// Returns whether it was here.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        let (at, Ok(place)) = self.find(id) else { return false };
        self.len -= 1;
        let chunk = &mut self.chunks[at];
        chunk.remove(place);
        shrink(chunk);
        if chunk.is_empty() {
            self.chunks.remove(at);
            shrink(&mut self.chunks);
        }
        true
    }

    /// What it takes of the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(Vec::capacity).sum();
        chunks * size_of::<Arc<C>>() + self.chunks.capacity() * size_of::<Vec<Arc<C>>>()
    }

    /// In which chunk it is, or belongs, and there at which place.
    fn find(&self, id: ConnectionId) -> (usize, Result<usize, usize>) {
        let begins_before = |chunk: &Vec<Arc<C>>| chunk.first().is_some_and(|first| first.id() <= id);
        let at = self.chunks.partition_point(begins_before).saturating_sub(1);
        let place = match self.chunks.get(at).map(Vec::as_slice) {
            None => Err(0),
            // Whoever comes is the youngest, but for a few that overtake one another.
            Some(chunk @ [.., last]) if last.id() < id => Err(chunk.len()),
            Some(chunk) => chunk.binary_search_by_key(&id, |connection| connection.id()),
        };
        (at, place)
    }
}

/// Gives back room where a quarter of it would do, so that one who comes and goes moves nothing.
fn shrink<T>(list: &mut Vec<T>) {
    if list.len() <= list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
}
