//! Places in a row, of which any can be taken out, and put back in the reverse order: what a search for an order of events goes
//! through. The chaos harness's checker goes through it as well.

/// The row. Its end is one place behind the last, which is its beginning as well.
pub struct Links {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Links {
    /// A row of so many places.
    pub fn new(places: usize) -> Self {
        let count = places + 1;
        Self {
            next: (0..count).map(|place| (place + 1) % count).collect(),
            previous: (0..count).map(|place| (place + count - 1) % count).collect(),
        }
    }

    /// The first place that is there, or the end.
    pub fn first(&self) -> usize {
        self.next[self.next.len() - 1]
    }

    /// The place behind one, or the end.
    pub fn behind(&self, place: usize) -> usize {
        self.next[place]
    }

    pub fn take_out(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes the latest `take_out`.
    pub fn put_back(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = place;
        self.previous[next] = place;
    }
}
