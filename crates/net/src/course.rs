//! Whether a request gets on: when bytes of it last moved.

use futures::{AsyncRead, AsyncWrite};
use std::{
    io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;

/// What is known of a request that is under way, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Course(Mutex<Option<Moves>>);

#[derive(Clone, Copy, Debug)]
struct Moves {
    begun: Instant,
    last: Instant,
}

impl Course {
    /// How long the request has been under way; `None` while it waits for its turn among others to the same node.
    pub fn age(&self) -> Option<Duration> {
        Some(self.moves()?.begun.elapsed())
    }

    /// How long nothing of it has moved, neither there nor back; `None` while it waits for its turn.
    pub fn quiet(&self) -> Option<Duration> {
        Some(self.moves()?.last.elapsed())
    }

    fn moves(&self) -> Option<Moves> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moved(&self) {
        let last = Instant::now();
        let mut moves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *moves {
            Some(moves) => moves.last = last,
            None => *moves = Some(Moves { begun: last, last }),
        }
    }
}

/// A stream whose bytes are noted, for the request and for all to the same node.
pub(crate) struct Watched<'a, S> {
    pub(crate) stream: &'a mut S,
    pub(crate) courses: [&'a Course; 2],
}

impl<S> Watched<'_, S> {
    fn note(&self, moved: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(1..) = moved {
            self.courses.into_iter().for_each(Course::moved);
        }
        Poll::Ready(moved)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let moved = ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer));
        self.note(moved)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes));
        self.note(moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_close(cx)
    }
}
