//! A stream between two nodes of one process: two directions, each a queue of bytes with the time at which they arrive.

use super::weather::Weather;
use futures::{AsyncRead, AsyncWrite};
use potluck_types::NodeId;
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes under way in one direction.
const PIPE_BYTES: usize = 256 << 10;
/// How often it is looked whether a way is free again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One direction.
struct Way {
    from: NodeId,
    to: NodeId,
    weather: Arc<dyn Weather>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Bytes, how many of them were read, and when they arrive, if the way was free.
    chunks: VecDeque<(Vec<u8>, usize, Option<Instant>)>,
    bytes: usize,
    /// No more is written, or read.
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn new(from: NodeId, to: NodeId, weather: &Arc<dyn Weather>) -> Arc<Self> {
        Arc::new(Self {
            from,
            to,
            weather: Arc::clone(weather),
            queue: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("never poisoned")
    }

    fn end(&self) {
        let mut queue = self.lock();
        queue.ended = true;
        let wakers = [queue.reader.take(), queue.writer.take()];
        drop(queue);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn arrival(&self, bytes: usize) -> Option<Instant> {
        self.weather
            .delay(self.from, self.to, bytes)
            .map(|delay| Instant::now() + delay)
    }
}

/// One end of a stream.
pub(super) struct Pipe {
    incoming: Arc<Way>,
    outgoing: Arc<Way>,
    arrival: Option<Pin<Box<Sleep>>>,
}

/// Both ends of a stream between two nodes.
pub(super) fn pipe(a: NodeId, b: NodeId, weather: &Arc<dyn Weather>) -> (Pipe, Pipe) {
    let (there, back) = (Way::new(a, b, weather), Way::new(b, a, weather));
    let end = |incoming: &Arc<Way>, outgoing: &Arc<Way>| Pipe {
        incoming: Arc::clone(incoming),
        outgoing: Arc::clone(outgoing),
        arrival: None,
    };
    (end(&back, &there), end(&there, &back))
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.incoming.end();
        self.outgoing.end();
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(arrival) = &mut self.arrival {
                ready!(arrival.as_mut().poll(cx));
                self.arrival = None;
            }
            let way = Arc::clone(&self.incoming);
            let mut queue = way.lock();
            let Some((chunk, read, arrives)) = queue.chunks.front_mut() else {
                if queue.ended {
                    return Poll::Ready(Ok(0));
                }
                queue.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            if arrives.is_none() {
                *arrives = way.arrival(chunk.len());
            }
            let now = Instant::now();
            let at = arrives.unwrap_or(now + LOOK_INTERVAL);
            if at > now {
                self.arrival = Some(Box::pin(sleep_until(at)));
                continue;
            }
            let len = buffer.len().min(chunk.len() - *read);
            buffer[..len].copy_from_slice(&chunk[*read..][..len]);
            *read += len;
            if *read == chunk.len() {
                queue.chunks.pop_front();
            }
            queue.bytes -= len;
            let writer = queue.writer.take();
            drop(queue);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(len));
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let way = &self.outgoing;
        let mut queue = way.lock();
        if queue.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = bytes.len().min(PIPE_BYTES - queue.bytes);
        if len == 0 && !bytes.is_empty() {
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut chunk = bytes[..len].to_vec();
        way.weather.damage(way.from, way.to, &mut chunk);
        let arrives = way.arrival(len);
        queue.bytes += len;
        queue.chunks.push_back((chunk, 0, arrives));
        let reader = queue.reader.take();
        drop(queue);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.end();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A second each way, unless it is closed.
    #[derive(Default)]
    struct Slow {
        closed: AtomicBool,
    }

    impl Weather for Slow {
        fn delay(&self, _: NodeId, _: NodeId, _: usize) -> Option<Duration> {
            (!self.closed.load(Ordering::Relaxed)).then_some(Duration::from_secs(1))
        }

        fn damage(&self, _: NodeId, _: NodeId, _: &mut [u8]) {}

        fn gossip(&self, _: NodeId, _: NodeId, _: usize) -> Vec<Duration> {
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_and_wait_while_the_way_is_closed() {
        let slow = Arc::new(Slow::default());
        let weather: Arc<dyn Weather> = Arc::<Slow>::clone(&slow);
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let (mut near, mut far) = pipe(a, b, &weather);
        let begun = Instant::now();
        near.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, begun.elapsed().as_secs()), (b"hello", 1));
        slow.closed.store(true, Ordering::Relaxed);
        far.write_all(b"world").await.unwrap();
        let reading = near.read_exact(&mut heard);
        assert!(tokio::time::timeout(Duration::from_secs(9), reading).await.is_err());
        slow.closed.store(false, Ordering::Relaxed);
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"world");
        drop(far);
        assert_eq!(near.read(&mut heard).await.unwrap(), 0);
        assert!(near.write_all(b"!").await.is_err());
    }
}
