//! The pipeline with an empty journal, and disks that fail.

use postern_core::envelope::Signer;
use postern_core::ledger::{Action, Event};
use postern_core::refusal::{Reason, Refusal};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::*;
use crate::engine::QUEUE;
use crate::engine::command::Change;
use crate::journal::Settings;

const NOW: BootNanos = BootNanos(0);

/// A committer of an empty journal, and the batches that its writer gives back.
fn start(dir: &tempfile::TempDir) -> (Committer<&'static str>, mpsc::UnboundedReceiver<Written>) {
    let journal = Journal::open(dir.path(), Settings::default()).unwrap().journal;
    let (done, written) = mpsc::unbounded_channel();
    let findings = StartupFindings { torn: 7, set_aside: None };
    (Committer::start(journal, findings, done).unwrap(), written)
}

fn record(seq: u64) -> Record {
    let event = Event::Unverified { counts: [("KEY_UNKNOWN".to_owned(), 1)].into() };
    Record { seq, time: Timestamp::UNIX_EPOCH, boot: NOW, boot_id: Uuid::nil(), message: None, event }
}

fn ledger(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::default();
    records.iter().for_each(|record| ledger.apply(record));
    ledger
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

/// Commits `records` to a disk that answers with `failure`.
fn fail(
    committer: &mut Committer<&'static str>,
    records: Vec<Record>,
    failure: AppendFailure,
) -> Outcome<&'static str> {
    let after = ledger(&records);
    let (journal, records) = committer.prepare((Ledger::default(), after), records, "decided", NOW).unwrap();
    committer.committed(Written { journal, records, outcome: Err(failure) }).unwrap()
}

fn disk() -> AppendFailure {
    AppendFailure::Disk(std::io::ErrorKind::StorageFull.into())
}

#[test]
fn a_batch_comes_back_with_the_ledger_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, mut written) = start(&dir);
    let records = vec![record(1), record(2)];
    committer.submit((Ledger::default(), ledger(&records)), records, "decided", NOW);
    assert!(committer.journal().is_none() && committer.startup().is_none() && !committer.is_start_recorded());
    let outcome = committer.committed(written.blocking_recv().unwrap()).unwrap();
    assert_eq!((outcome.decided, outcome.ledger.last_seq(), seqs(&outcome.records)), ("decided", 2, vec![1, 2]));
    let recorded = outcome.result.unwrap_or_else(|failure| panic!("{}", failure.why));
    assert_eq!(recorded.lines.iter().filter(|byte| **byte == b'\n').count(), 2);
    assert!(committer.journal().is_some() && committer.in_flight().is_none() && committer.is_start_recorded());
}

#[test]
fn an_append_failure_leaves_everything_to_be_recorded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, _written) = start(&dir);
    committer.note_gap("first", Timestamp::UNIX_EPOCH, 2);
    let (journal, records) =
        committer.prepare((Ledger::default(), ledger(&[record(1)])), vec![record(1)], "decided", NOW).unwrap();
    committer.note_gap("second", Timestamp::MAX, 3);
    let outcome = committer.committed(Written { journal, records, outcome: Err(disk()) }).unwrap();
    assert_eq!((outcome.decided, outcome.ledger.last_seq(), seqs(&outcome.records)), ("decided", 0, vec![1]));
    let failure = outcome.result.err().unwrap();
    assert!(failure.reopened.is_none() && failure.why.contains("full"), "{}", failure.why);
    let both = Gap { since: Timestamp::UNIX_EPOCH, why: "first".into(), refused: 5 };
    assert_eq!((committer.gap(), committer.startup().map(|findings| findings.torn)), (Some(&both), Some(7)));
}

#[test]
fn a_record_that_took_effect_early_is_the_first_of_the_next_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, mut written) = start(&dir);
    let mut current = Ledger::default();
    committer.submit((current.clone(), ledger(&[record(1)])), vec![record(1)], "one", NOW);
    committer.record_later(record(0), &mut current);
    assert_eq!(seqs(committer.unrecorded()), [2], "it follows the batch in flight");
    let outcome = committer.committed(written.blocking_recv().unwrap()).unwrap();
    assert_eq!((outcome.ledger.last_seq(), seqs(&outcome.records)), (2, vec![1]));
    let (before, mut after) = (outcome.ledger.clone(), outcome.ledger);
    after.apply(&record(3));
    let outcome = committer.submit_and_wait((before, after), vec![record(3)], "two", NOW).unwrap();
    let recorded = outcome.result.unwrap_or_else(|failure| panic!("{}", failure.why));
    assert_eq!((seqs(&recorded.earlier), seqs(&outcome.records)), (vec![2], vec![3]));
    assert!(committer.unrecorded().is_empty());
    let again = Journal::open(dir.path(), Settings::default()).unwrap();
    assert_eq!(again.ledger.last_seq(), 3);
}

#[test]
fn a_record_that_took_effect_early_survives_an_append_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, _written) = start(&dir);
    let (journal, records) =
        committer.prepare((Ledger::default(), ledger(&[record(1)])), vec![record(1)], "decided", NOW).unwrap();
    committer.record_later(record(0), &mut Ledger::default());
    let outcome = committer.committed(Written { journal, records, outcome: Err(disk()) }).unwrap();
    assert_eq!((seqs(committer.unrecorded()), outcome.ledger.last_seq()), (vec![1], 1), "nothing is before it now");
}

#[test]
fn a_journal_that_could_only_now_be_opened_replaces_what_was_known() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut opened = Journal::open(other.path(), Settings::default()).unwrap();
    let held = [record(1), record(2), record(3)];
    opened.journal.append(&held).unwrap();
    opened.ledger = ledger(&held);
    let (mut committer, _written) = start(&dir);
    committer.record_later(record(0), &mut Ledger::default());
    let outcome = fail(&mut committer, vec![record(2)], AppendFailure::Found(Box::new(opened)));
    assert_eq!((seqs(committer.unrecorded()), outcome.ledger.last_seq()), (vec![4], 4));
    assert_eq!(
        outcome.result.err().and_then(|failure| failure.reopened).map(|reopened| reopened.set_aside),
        Some(false)
    );
    assert_eq!(committer.startup().map(|findings| findings.torn), Some(0));
}

fn refusal() -> (Change, oneshot::Receiver<Refusal>) {
    let signer = Signer { principal: "anna".into(), fingerprint: String::new(), certificate: None };
    let (answer, reply) = oneshot::channel();
    let refusal = Refusal::new(Reason::NotPermitted, "");
    (Change::Refuse { signer, action: Action::Read, refusal, answer }, reply)
}

#[test]
fn root_overtakes_requests_in_the_backlog() {
    let mut backlog = Backlog::default();
    backlog.push(refusal().0);
    backlog.push(Change::RollBack { answer: oneshot::channel().0 });
    assert!(matches!(backlog.pop(), Some(Change::RollBack { .. })));
    assert!(matches!(backlog.pop(), Some(Change::Refuse { .. })));
    assert!(backlog.is_empty());
}

#[test]
fn a_full_backlog_refuses_requests_and_still_takes_a_stop() {
    let mut backlog = Backlog::default();
    for _ in 0..QUEUE {
        backlog.push(refusal().0);
    }
    let (one_more, mut reply) = refusal();
    backlog.push(one_more);
    assert_eq!(reply.try_recv().unwrap().reason, Reason::Overloaded);
    backlog.push(Change::Stop { answer: oneshot::channel().0 });
    assert_eq!(backlog.take_all().len(), QUEUE + 1);
}
