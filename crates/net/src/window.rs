//! How much is under way at a time: requests to one peer, stripes of one upload. Little enough that each is over soon, also where the way to the
//! peer is narrow: what waits then waits here, in order, and neither at the peer's door, where it counts as stalled, nor in the way of what is
//! urgent. Enough that nobody is idle.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Where a window that adapts begins.
const SIZE_AT_FIRST: usize = 4;
/// A request under this was quick.
const QUICK: Duration = Duration::from_millis(500);
/// A request over this was slow.
const SLOW: Duration = Duration::from_secs(2);

/// How many pieces of work may be under way at once, as learned from how long they take: one more after each that is quick, half after one that
/// is slow (additive increase, multiplicative decrease; Chiu and Jain, 1989).
#[derive(Clone, Debug)]
pub struct Pace {
    size: usize,
    max: usize,
    quick: Duration,
    slow: Duration,
    /// What began before it was halved says nothing of how it is since.
    halved_at: Option<Instant>,
}

impl Pace {
    /// Begins with a few, and never has more than `max`.
    pub fn new(max: usize, quick: Duration, slow: Duration) -> Self {
        Self {
            size: SIZE_AT_FIRST.min(max),
            max,
            quick,
            slow,
            halved_at: None,
        }
    }

    /// One of them ended. `full` tells whether there was more to do than was under way.
    fn learn(&mut self, begun: Instant, ended: Instant, full: bool) {
        let taken = ended.saturating_duration_since(begun);
        if taken > self.slow && self.halved_at.is_none_or(|at| begun >= at) {
            self.size = (self.size / 2).max(1);
            self.halved_at = Some(ended);
        } else if taken < self.quick && full {
            self.size = (self.size + 1).min(self.max);
        }
    }
}

/// The places for work of one kind: each piece of it takes one while it is under way.
#[derive(Debug)]
pub struct Window {
    places: Arc<Semaphore>,
    /// None when it does not adapt.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Permits that there are, also those in use: more than the size until enough of them are given back.
    permits: usize,
}

impl Window {
    /// One that always has as many.
    pub(crate) fn fixed(size: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(size)),
            state: None,
        }
    }

    /// One for requests to a peer.
    pub(crate) fn of_requests(max: usize) -> Self {
        Self::adapting(Pace::new(max, QUICK, SLOW))
    }

    /// One that has as many as the pace allows.
    pub fn adapting(pace: Pace) -> Self {
        let permits = pace.size;
        Self {
            places: Arc::new(Semaphore::new(permits)),
            state: Some(Mutex::new(State { pace, permits })),
        }
    }

    /// Waits for a place.
    pub async fn place(self: &Arc<Self>) -> Place {
        let permit = Arc::clone(&self.places).acquire_owned().await.expect("never closed");
        Place {
            window: Arc::clone(self),
            permit: Some(permit),
            begun: Instant::now(),
        }
    }
}

/// A place for one piece of work, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    window: Arc<Window>,
    permit: Option<OwnedSemaphorePermit>,
    begun: Instant,
}

impl Place {
    /// The work was done, and took all the time since there was a place for it. What failed says nothing of how long it would have taken.
    pub fn done(self) {
        if let Some(state) = &self.window.state {
            let full = self.window.places.available_permits() == 0;
            let pace = &mut state.lock().expect("never poisoned").pace;
            pace.learn(self.begun, Instant::now(), full);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(permit), Some(state)) = (self.permit.take(), &self.window.state) else {
            return;
        };
        let mut state = state.lock().expect("never poisoned");
        if state.permits > state.pace.size {
            state.permits -= 1;
            permit.forget();
        } else if state.permits < state.pace.size {
            self.window.places.add_permits(state.pace.size - state.permits);
            state.permits = state.pace.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(size: usize) -> Pace {
        let pace = Pace::new(36, QUICK, SLOW);
        Pace { size, ..pace }
    }

    #[test]
    fn quick_answers_make_it_larger_if_others_wait_up_to_its_limit() {
        let (mut pace, begun) = (pace(4), Instant::now());
        pace.learn(begun, begun + QUICK / 2, false);
        assert_eq!(pace.size, 4);
        (0..100).for_each(|_| pace.learn(begun, begun + QUICK / 2, true));
        assert_eq!(pace.size, 36);
        pace.learn(begun, begun + (QUICK + SLOW) / 2, true);
        assert_eq!(pace.size, 36);
    }

    #[test]
    fn a_slow_round_halves_it_once_and_one_is_the_least() {
        let (mut pace, begun) = (pace(16), Instant::now());
        let over = begun + 2 * SLOW;
        (0..16).for_each(|_| pace.learn(begun, over, true));
        assert_eq!(pace.size, 8);
        let mut at = over;
        for _ in 0..10 {
            pace.learn(at, at + 2 * SLOW, true);
            at += 2 * SLOW;
        }
        assert_eq!(pace.size, 1);
    }

    #[tokio::test]
    async fn a_window_that_shrinks_takes_back_the_places_in_use() {
        let window = Arc::new(Window::of_requests(36));
        let places = [
            window.place().await,
            window.place().await,
            window.place().await,
            window.place().await,
        ];
        assert_eq!(window.places.available_permits(), 0);
        window.state.as_ref().unwrap().lock().unwrap().pace.size = 2;
        drop(places);
        assert_eq!(window.places.available_permits(), 2);
        let first = window.place().await;
        window.state.as_ref().unwrap().lock().unwrap().pace.size = 5;
        drop(first);
        assert_eq!(window.places.available_permits(), 5);
    }
}
