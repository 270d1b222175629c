//! The sleep of the engine's thread, until a future is ready or a time has passed. tokio's timer wakes a thread twice for a wait of more
//! than 64 ms, because its wheel is that coarse. The thread's own timer wakes it once, and needs no runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The output of `future`, or `None` after `wait`. The future may not use tokio's timers or sockets, because no runtime serves them here.
pub(super) fn ready_within<F: Future>(future: F, wait: Duration) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let end = Instant::now().checked_add(wait);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_ready_comes_at_once_and_what_is_not_ends_with_the_wait() {
        assert_eq!(ready_within(std::future::ready(7), Duration::ZERO), Some(7));
        assert_eq!(ready_within(std::future::pending::<()>(), Duration::ZERO), None);
        let start = Instant::now();
        assert_eq!(ready_within(std::future::pending::<()>(), Duration::from_millis(20)), None);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let (sender, mut receiver) = mpsc::channel(1);
        let other = thread::spawn(move || sender.blocking_send(7).unwrap());
        assert_eq!(ready_within(receiver.recv(), Duration::MAX), Some(Some(7)));
        other.join().unwrap();
    }
}
