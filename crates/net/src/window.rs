//! How many requests one peer gets at a time. Few enough that each is over soon, also where the way to the peer is narrow: what waits then
//! waits here, in order, and neither at the peer's door, where it counts as stalled, nor in the way of what is urgent. Enough that none of
//! it is idle.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, SemaphorePermit};

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

    /// How many may be under way now: 1 at least.
    pub fn size(&self) -> usize {
        self.size
    }

    /// One of them ended. `full` tells whether there was more to do than was under way.
    pub fn learn(&mut self, begun: Instant, ended: Instant, full: bool) {
        let taken = ended.saturating_duration_since(begun);
        if taken > self.slow && self.halved_at.is_none_or(|at| begun >= at) {
            self.size = (self.size / 2).max(1);
            self.halved_at = Some(ended);
        } else if taken < self.quick && full {
            self.size = (self.size + 1).min(self.max);
        }
    }
}

/// The places for requests to one peer.
#[derive(Debug)]
pub(crate) struct Window {
    places: Semaphore,
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
    pub(crate) fn fixed(size: usize) -> Self {
        Self {
            places: Semaphore::new(size),
            state: None,
        }
    }

    pub(crate) fn adapting(max: usize) -> Self {
        let pace = Pace::new(max, QUICK, SLOW);
        let permits = pace.size;
        Self {
            places: Semaphore::new(permits),
            state: Some(Mutex::new(State { pace, permits })),
        }
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) -> Place<'_> {
        let permit = self.places.acquire().await.expect("never closed");
        Place {
            window: self,
            permit: Some(permit),
            begun: Instant::now(),
        }
    }
}

/// A place for one request, free again when it is dropped.
pub(crate) struct Place<'a> {
    window: &'a Window,
    permit: Option<SemaphorePermit<'a>>,
    begun: Instant,
}

impl Place<'_> {
    /// The request was answered.
    pub(crate) fn answered(&self) {
        if let Some(state) = &self.window.state {
            let full = self.window.places.available_permits() == 0;
            let pace = &mut state.lock().expect("never poisoned").pace;
            pace.learn(self.begun, Instant::now(), full);
        }
    }
}

impl Drop for Place<'_> {
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
        let window = Window::adapting(36);
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
