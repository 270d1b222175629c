//! Streams that end when the reader loses the right to read.
//!
//! Owns the times of that check: after each change of the rules, and each second. The engine decides whether the reader may still read.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use postern_core::refusal::Refusal;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::reads::refused;
use crate::engine::{Engine, Reader};

/// How often a watcher is judged while the rules stay the same. Timers stand still during a suspend, so a stream may end this much late.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns the reader with the present rights, or why the reader may not read any more.
type Judge = Box<dyn Fn(&Reader) -> Result<Reader, Refusal> + Send>;

pub(super) struct Watch<S, F> {
    from: S,
    show: F,
    reader: Reader,
    judge: Judge,
    rules: WatchStream<()>,
    clock: Interval,
    may: fn(&Reader) -> Result<(), Refusal>,
    over: bool,
}

impl<S, F> Watch<S, F> {
    /// Shows for each item of `from` what `show` returns for the reader.
    pub(super) fn new(engine: &Engine, reader: Reader, from: S, show: F) -> Self {
        let (rules, engine) = (engine.rules_changed(), engine.clone());
        let judge = move |reader: &Reader| {
            let judged = engine.look_again(reader);
            judged.inspect_err(|refusal| engine.count_watcher(refusal.reason))
        };
        Self::judged_by(Box::new(judge), rules, reader, from, show)
    }

    fn judged_by(judge: Judge, rules: tokio::sync::watch::Receiver<()>, reader: Reader, from: S, show: F) -> Self {
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { from, show, reader, judge, rules: WatchStream::new(rules), clock, may: |_| Ok(()), over: false }
    }

    /// Ends the stream also when `may` refuses the reader.
    pub(super) fn only_if(self, may: fn(&Reader) -> Result<(), Refusal>) -> Self {
        Self { may, ..self }
    }

    /// Judges the reader again if that is due, and wakes this task at the next time.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        let mut due = false;
        while let Poll::Ready(Some(())) = Pin::new(&mut self.rules).poll_next(cx) {
            due = true;
        }
        while self.clock.poll_tick(cx).is_ready() {
            due = true;
        }
        if due {
            self.reader = (self.judge)(&self.reader)?;
            (self.may)(&self.reader)?;
        }
        Ok(())
    }
}

impl<S, F, T> Stream for Watch<S, F>
where
    S: Stream + Unpin,
    F: FnMut(S::Item, &Reader) -> Option<Result<T, Status>> + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.over {
            // Judge before each item, so that the item is shown under the newest rules.
            if let Err(refusal) = this.look(cx) {
                this.over = true;
                return Poll::Ready(Some(Err(refused(refusal))));
            }
            match Pin::new(&mut this.from).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => this.over = true,
                Poll::Ready(Some(item)) => {
                    if let Some(shown) = (this.show)(item, &this.reader) {
                        this.over = shown.is_err();
                        return Poll::Ready(Some(shown));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use postern_core::refusal::Reason;
    use tokio::sync::{mpsc, watch};
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::engine::Rights;

    /// A watcher that may read while the flag is set.
    fn watcher(
        trusted: &Arc<AtomicBool>,
        rules: watch::Receiver<()>,
        from: mpsc::Receiver<u32>,
    ) -> impl Stream<Item = Result<u32, Status>> + Unpin + use<> {
        let trusted = Arc::clone(trusted);
        let judge = move |reader: &Reader| match trusted.load(Ordering::SeqCst) {
            true => Ok(reader.clone()),
            false => Err(Refusal::new(Reason::KeyUnknown, "")),
        };
        let reader = Reader::with("alice", Rights::default());
        Watch::judged_by(Box::new(judge), rules, reader, ReceiverStream::new(from), |item, _: &Reader| Some(Ok(item)))
    }

    #[tokio::test]
    async fn nothing_is_shown_after_the_rules_changed_and_an_idle_stream_ends() {
        let (trusted, (changed, rules), (sender, from)) =
            (Arc::new(AtomicBool::new(true)), watch::channel(()), mpsc::channel(8));
        let mut stream = watcher(&trusted, rules, from);
        sender.send(1).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        trusted.store(false, Ordering::SeqCst);
        changed.send_replace(());
        sender.send(2).await.unwrap();
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn time_alone_ends_a_stream_on_which_nothing_happens() {
        let (trusted, (_changed, rules), (_sender, from)) =
            (Arc::new(AtomicBool::new(true)), watch::channel(()), mpsc::channel::<u32>(8));
        let mut stream = watcher(&trusted, rules, from);
        assert!(futures_util::FutureExt::now_or_never(stream.next()).is_none(), "nothing to show");
        trusted.store(false, Ordering::SeqCst);
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }
}
