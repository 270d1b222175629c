//! A random walk through a thousand operations with a hundred deaths, compared with a model after every step.
//!
//! What it holds posternd to: a grant is on the disk before it is active; no message is accepted twice; what was answered is never
//! lost; after a start on the same boot exactly that is open which was live; what dies half way is done or not done, as the journal says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use postern_proto::v1::SignedMessage;
use postern_tests::client::reason;
use postern_tests::clock::boot_ns;
use postern_tests::figure;
use postern_tests::postern::AUDIENCE;
use postern_tests::request::revoke;
use postern_tests::strace::{Fault, Scope};
use postern_tests::{PATIENCE, find, until};

use crate::model::{Given, Model};
use crate::setting;
use crate::world::{PORTS, Pair, Rules, SOURCES, Seen, Who, Wish, World};

/// The walk is the same for the same seed, as far as clocks allow: SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }
}

/// Where an operation may be hit. Most grants make each of these calls at least once.
const HITS: [(&str, u64); 6] = [("bpf", 3), ("fdatasync", 1), ("pwrite64", 1), ("write", 2), ("sendto", 2), ("bpf", 2)];
/// Where a start may be hit.
const START_HITS: [(&str, u64); 5] = [("bpf", 48), ("write", 5), ("fsync", 3), ("fdatasync", 1), ("pwrite64", 2)];

/// How an operation ended for who asked.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Refused(String),
    Lost,
}

impl Answer {
    /// Refused because it was seen before: by its bytes in this run, or by its id in the journal.
    fn is_repeat(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason == "REPLAYED" || reason == "PAYLOAD_REPEATED")
    }
}

struct Walk {
    world: World,
    model: Model,
    rules: Rules,
    dice: Dice,
    /// Messages that were accepted, to be shown again.
    accepted: Vec<SignedMessage>,
    kills: u64,
    starts: u64,
    refusals: u64,
}

#[test]
#[ignore = "minutes long: cargo xtask torture runs it"]
fn a_random_walk_with_crashes_is_never_more_open_nor_less_than_its_journal() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let seed = setting("POSTERN_TORTURE_SEED", clock);
    let operations = setting("POSTERN_TORTURE_OPERATIONS", 1000);
    println!("POSTERN_TORTURE_SEED={seed} POSTERN_TORTURE_OPERATIONS={operations}");
    let world = World::new(false);
    let (model, rules, dice) = (Model::default(), Rules::default(), Dice(seed));
    let mut walk = Walk { world, model, rules, dice, accepted: Vec::new(), kills: 0, starts: 0, refusals: 0 };
    let began = Instant::now();
    for step in 0..operations {
        if step % 100 == 0 {
            println!("step {step}: {} deaths, {} starts, {:?}", walk.kills, walk.starts, began.elapsed());
        }
        let what = walk.step();
        walk.note_openings();
        let seen = walk.look();
        walk.model.check(&seen, &format!("seed {seed}, step {step}, after {what}"));
    }
    walk.reconcile("at the end");
    figure::print("operations walked", operations);
    figure::print("kills survived", walk.kills);
    figure::print("restarts", walk.starts);
    figure::print("repeats and forbidden requests refused", walk.refusals);
    assert!(operations < 1000 || walk.kills >= 100, "only {} kills", walk.kills);
}

impl Walk {
    /// One operation, and what it was.
    fn step(&mut self) -> String {
        match self.dice.roll(1000) {
            0..290 => self.grant(),
            290..340 => self.extend(),
            340..460 => self.repeat(),
            460..740 => self.revoke(),
            740..830 => self.reload(),
            830..880 => self.expire(),
            880..910 => self.restart(),
            910..955 => {
                self.world.postern.kill();
                self.died("between two operations", &[])
            }
            _ => "nothing".to_owned(),
        }
    }

    /// Looks up which scheduled grants have been opened meanwhile; those whose time has come must be, soon.
    fn note_openings(&mut self) {
        let now = boot_ns();
        let due = |given: &Given| !given.over && !given.opened && given.starts <= now && given.expires > now;
        until("each scheduled grant whose time has come is open", || {
            if !self.model.0.values().any(due) {
                return true;
            }
            let record = Model::of(&self.world.postern.on_disk());
            for (id, given) in self.model.0.iter_mut().filter(|(_, given)| due(given)) {
                given.opened = record.0[id].opened;
            }
            false
        });
    }

    /// What is open. A busy machine may be slow to answer: what must be open is looked at twice.
    fn look(&self) -> Seen {
        let seen = self.world.look();
        let missed =
            |(pair, open): (&Pair, &bool)| !open && self.model.expects(*pair, seen.from, seen.to) == Some(true);
        if seen.open.iter().any(missed) { self.world.look() } else { seen }
    }

    /// A fault for an operation, one in `odds`.
    fn fault(&mut self, odds: u64) -> Option<Fault> {
        let (call, most) = self.dice.pick(&HITS);
        let nth = 1 + self.dice.roll(most);
        (self.dice.roll(odds) == 0).then(|| Fault::kill(call, nth as u32))
    }

    /// Runs an operation, perhaps to be hit. The ids are those of the grants that it may have changed.
    fn run(&mut self, fault: Option<Fault>, work: impl FnOnce(&World) -> Answer) -> (Answer, bool) {
        let tracer = fault.map(|fault| self.world.postern.trace(Scope::Process, &[fault]));
        let answer = work(&self.world);
        drop(tracer);
        let patience = match (&answer, fault) {
            (Answer::Lost, _) => PATIENCE,
            // The fault may hit after the answer.
            (_, Some(_)) => std::time::Duration::from_millis(50),
            _ => std::time::Duration::ZERO,
        };
        let crashed = self.world.postern.has_crashed(patience);
        assert!(answer != Answer::Lost || crashed, "an answer was lost, and posternd did not crash");
        assert!(!crashed || fault.is_some(), "posternd died by itself:\n{}", self.world.postern.log());
        (answer, crashed)
    }

    fn grant(&mut self) -> String {
        let now = boot_ns();
        if self.model.live(now).count() >= 5 {
            return self.revoke();
        }
        let ports: &[u16] = self.dice.pick(&[&PORTS[..1], &PORTS[1..], &PORTS[..]]);
        let first = self.dice.roll(3) as usize;
        let sources =
            if self.dice.roll(4) == 0 { [SOURCES[0], SOURCES[2]].to_vec() } else { [SOURCES[first]].to_vec() };
        let who = if self.dice.roll(3) == 0 { Who::Carol } else { Who::Alice };
        let seconds = self.dice.pick(&[1, 2, 3, 120, 600]);
        let in_ms = (self.dice.roll(8) == 0).then(|| self.dice.pick(&[1500, 2500]));
        self.ask(&Wish { who, in_ms, ..Wish::new(ports, &sources, seconds) }, 12)
    }

    /// Longer, for one that is open.
    fn extend(&mut self) -> String {
        let now = boot_ns() + 100_000_000;
        let open = |(_, given): &(&String, &Given)| given.opened && given.expires < now + 800_000_000_000;
        let Some((old, given)) = self.model.live(now).find(open) else { return self.grant() };
        let (old, given) = (old.clone(), given.clone());
        let ports: BTreeSet<u16> = given.pairs.iter().map(|pair| pair.1).collect();
        let sources: BTreeSet<IpAddr> = given.pairs.iter().map(|pair| pair.0).collect();
        let (ports, sources): (Vec<_>, Vec<_>) = (ports.into_iter().collect(), sources.into_iter().collect());
        self.ask(&Wish { who: given.who, extends: Some(&old), ..Wish::new(&ports, &sources, 900) }, 4)
    }

    fn ask(&mut self, wish: &Wish<'_>, odds: u64) -> String {
        let (id, message) = self.world.request(wish);
        let allowed = self.rules.allow(wish.who, &wish.pairs());
        let fault = self.fault(odds);
        let what = format!("{wish:?} as {id}, {fault:?}");
        let before = boot_ns();
        let (answer, crashed) = self.run(fault, |world| submit(world, &message));
        match &answer {
            Answer::Done => {
                assert!(allowed, "{what}: no principal may have that");
                self.take(wish, &id, before);
                self.accepted.push(message.clone());
            }
            Answer::Refused(reason) => {
                // What was to be extended may just have ended.
                let late = wish.extends.is_some_and(|old| self.model.0[old].expires <= boot_ns());
                assert!(!allowed || late, "{what}: {reason}");
                self.refusals += 1;
            }
            Answer::Lost => {}
        }
        if !crashed {
            return what;
        }
        let touched: Vec<String> = [Some(id.clone()), wish.extends.map(str::to_owned)].into_iter().flatten().collect();
        let what = self.died(&what, &touched);
        if answer == Answer::Lost && allowed && wish.extends.is_none() {
            // Nobody knows by the answer; whoever asks again gets the grant or learns that there is one.
            let known = self.model.0.contains_key(&id);
            let again = submit(&self.world, &message);
            assert!(if known { again.is_repeat() } else { again == Answer::Done }, "{what}; known: {known}, {again:?}");
            self.model.0.insert(id.clone(), self.on_record(&id).expect("on record by now"));
            self.accepted.push(message);
        }
        what
    }

    /// Notes what was granted, as the record has it, which must be what was asked for.
    fn take(&mut self, wish: &Wish<'_>, id: &str, asked: u64) {
        let given = self.on_record(id).unwrap_or_else(|| panic!("{wish:?}: granted, and not on record"));
        let pairs = |pairs: &[Pair]| pairs.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!((given.who, pairs(&given.pairs)), (wish.who, pairs(&wish.pairs())), "on record as another");
        let (length, now) = (wish.seconds * 1_000_000_000, boot_ns());
        let later = wish.in_ms.unwrap_or(0) as u64 * 1_000_000;
        assert!((asked + length..=now + later + length).contains(&given.expires), "{wish:?}: {given:?}");
        if let Some(old) = wish.extends {
            self.given(old).over = true;
        }
        self.model.0.insert(id.to_owned(), given);
    }

    fn on_record(&self, id: &str) -> Option<Given> {
        Model::of(&self.world.postern.on_disk()).0.remove(id)
    }

    /// Shows an accepted message again.
    fn repeat(&mut self) -> String {
        let Some(last) = self.accepted.len().checked_sub(1) else { return self.grant() };
        // The newest ones are those that a crash could have made posternd forget.
        let at = last - self.dice.roll(1 + (last as u64).min(20)) as usize;
        let answer = submit(&self.world, &self.accepted[at].clone());
        // Before that is asked, its time may have passed, or its signer may be trusted no longer.
        let sooner =
            matches!(&answer, Answer::Refused(reason) if reason == "MESSAGE_EXPIRED" || reason == "KEY_UNKNOWN");
        assert!(answer.is_repeat() || sooner, "a message from before was taken again: {answer:?}");
        self.refusals += 1;
        "a repeat".to_owned()
    }

    fn revoke(&mut self) -> String {
        let live: Vec<String> = self.model.live(boot_ns() + 100_000_000).map(|(id, _)| id.clone()).collect();
        if live.is_empty() {
            return self.ask(&Wish::new(&PORTS, &SOURCES[..1], 300), 12);
        }
        let id = live[self.dice.roll(live.len() as u64) as usize].clone();
        let message = revoke(&self.world.postern.admin, AUDIENCE, &id);
        let fault = self.fault(12);
        let what = format!("the end of {id}, {fault:?}");
        let (answer, crashed) =
            self.run(fault, |world| answer(world.postern.connect().and_then(|client| client.revoke(message))));
        let expired = self.model.0[&id].expires <= boot_ns();
        assert!(!matches!(answer, Answer::Refused(_)) || expired, "{what}: {answer:?}");
        if answer == Answer::Done {
            self.given(&id).over = true;
        }
        if crashed { self.died(&what, &[id]) } else { what }
    }

    fn given(&mut self, id: &str) -> &mut Given {
        self.model.0.get_mut(id).expect("a known grant")
    }

    /// Other rules, which may end grants.
    fn reload(&mut self) -> String {
        self.rules = Rules { narrow: self.dice.roll(3) == 0, without_carol: self.dice.roll(3) == 0 };
        self.world.write(self.rules);
        let rules = self.rules;
        let gone = |given: &Given| !given.over && !rules.allow(given.who, &given.pairs);
        let gone: Vec<String> =
            self.model.0.iter().filter(|(_, given)| gone(given)).map(|(id, _)| id.clone()).collect();
        let fault = self.fault(5);
        let what = format!("{rules:?}, which ends {gone:?}, {fault:?}");
        let (_, crashed) = self.run(fault, |world| if world.reload() { Answer::Done } else { Answer::Lost });
        // Done or not, what is left of them ends at the next start.
        let what = if crashed { self.died(&what, &gone) } else { what };
        gone.iter().for_each(|id| self.given(id).over = true);
        what
    }

    /// Waits for the next end.
    fn expire(&mut self) -> String {
        let soon = |now: u64| now + 3_500_000_000;
        let now = boot_ns();
        if !self.model.live(now).any(|(_, given)| given.expires < soon(now)) {
            let source = self.dice.pick(&SOURCES);
            // 22 is open to everybody whatever the rules.
            self.ask(&Wish::new(&PORTS[..1], &[source], 1), u64::MAX);
        }
        let now = boot_ns();
        let next = self.model.live(now).map(|(id, given)| (id.clone(), given.expires)).min_by_key(|next| next.1);
        let Some((id, end)) = next.filter(|next| next.1 < soon(now)) else { return "nothing".to_owned() };
        let fault = self.fault(2);
        let what = format!("the end of time of {id}, {fault:?}");
        let (_, crashed) = self.run(fault, |world| {
            until("the end has come", || boot_ns() > end);
            find(|| match () {
                () if !crate::world::is_alive(world.postern.pid()) => Ok(Answer::Lost),
                () if Model::of(&world.postern.on_disk()).0[&id].over => Ok(Answer::Done),
                () => Err(format!("the end of {id} is not on record")),
            })
        });
        if crashed { self.died(&what, &[]) } else { what }
    }

    /// An orderly stop, perhaps hit, and a start.
    fn restart(&mut self) -> String {
        let fault = self.fault(2);
        let what = format!("a stop, {fault:?}");
        let tracer = fault.map(|fault| self.world.postern.trace(Scope::Process, &[fault]));
        let status = self.world.postern.stop();
        drop(tracer);
        assert!(status.success() || fault.is_some(), "{status}");
        self.kills += u64::from(!status.success());
        self.revive(&what, &[])
    }

    /// Posternd is dead: judges what it left, and starts it again.
    fn died(&mut self, what: &str, touched: &[String]) -> String {
        self.kills += 1;
        self.revive(what, touched)
    }

    fn revive(&mut self, what: &str, touched: &[String]) -> String {
        let what = format!("{what}; a new start");
        self.reconcile_while_dead(&what, touched);
        if self.dice.roll(6) == 0 {
            let (call, most) = self.dice.pick(&START_HITS);
            let fault = Fault::kill(call, 1 + self.dice.roll(most) as u32);
            match self.world.postern.launch_with(&[fault]) {
                Some(status) => assert_eq!(status.signal(), Some(9), "{what}, {fault:?}"),
                // The fault is still there and would hit whatever comes next.
                None => self.world.postern.kill(),
            }
            self.kills += 1;
            self.reconcile_while_dead(&format!("{what}, {fault:?}"), touched);
        }
        self.world.postern.launch();
        self.starts += 1;
        self.reconcile(&what);
        what
    }

    /// With posternd dead: nothing is open without a line; nothing that was answered is missing.
    fn reconcile_while_dead(&mut self, what: &str, touched: &[String]) {
        let record = Model::of(&self.world.postern.on_disk());
        self.compare(&record, what, touched);
        let seen = self.look();
        let ever = |pair: Pair| record.0.values().any(|given| given.pairs.contains(&pair) && given.expires > seen.from);
        for (pair, open) in &seen.open {
            assert!(!open || ever(*pair), "{what}: {pair:?} is open and no line says why");
            let touched = touched.iter().filter_map(|id| record.0.get(id)).any(|given| given.pairs.contains(pair));
            // What it died over may or may not have reached the kernel; for the rest nothing has changed.
            let expected = if touched { None } else { self.model.expects(*pair, seen.from, seen.to) };
            assert!(expected.is_none_or(|expected| expected == *open), "{what}: {pair:?}, while dead: {open}");
        }
        for id in touched {
            match record.0.get(id) {
                Some(given) => drop(self.model.0.insert(id.clone(), given.clone())),
                None => assert!(!self.model.0.contains_key(id), "{what}: {id} was granted and is not on record"),
            }
        }
    }

    /// With posternd alive: the journal and the model are one.
    fn reconcile(&mut self, what: &str) {
        let record = Model::of(&self.world.postern.on_disk());
        let rules = self.rules;
        // What new rules no longer allow ends with the start at the latest.
        for given in self.model.0.values_mut().filter(|given| !rules.allow(given.who, &given.pairs)) {
            given.over = true;
        }
        self.compare(&record, what, &[]);
        let status = self.world.postern.client().status().expect("the status");
        assert!(status.conditions.is_empty(), "{what}: {:?}", status.conditions);
    }

    /// Both have the same grants and ends, except those that are `touched` and those that ended by the clock.
    fn compare(&self, record: &Model, what: &str, touched: &[String]) {
        let now = boot_ns();
        let ids = self.model.0.keys().chain(record.0.keys()).filter(|id| !touched.contains(id));
        for id in ids {
            let (ours, theirs) = (self.model.0.get(id), record.0.get(id));
            let live = |given: Option<&Given>| given.is_some_and(|given| !given.over && given.expires > now);
            assert_eq!(live(ours), live(theirs), "{what}: {id}: {ours:?} is on record as {theirs:?}");
            assert!(theirs.is_some(), "{what}: {id} was granted and is not on record");
        }
    }
}

fn submit(world: &World, message: &SignedMessage) -> Answer {
    answer(world.postern.connect().and_then(|client| client.request(message.clone())))
}

fn answer<T>(result: Result<T, tonic::Status>) -> Answer {
    match result {
        Ok(_) => Answer::Done,
        Err(status) if reason(&status).is_empty() => Answer::Lost,
        Err(status) => Answer::Refused(reason(&status)),
    }
}
