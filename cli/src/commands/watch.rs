//! `postern watch`: live grants and their time left. A terminal shows a table each second; otherwise each change is a line.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use postern_proto::v1::{
    EndWarning, GetGrantRequest, GetGrantResponse, Grant, WatchGrantsRequest, WatchGrantsResponse,
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Streaming;

use super::{Env, signed_by};
use crate::{
    args::Watch,
    failure::{Failure, Kind, Result},
    keys::Signer,
    session::{CALL_LIMIT, Plan, Reach, limited},
    text, view,
};

const SHOW_ENDED: Duration = Duration::from_secs(60);

/// The client does not call a host that ends each stream at once more often than this.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The client waits this long for a host that went away, for example to restart posternd.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(env: &Env, args: Watch) -> Result<()> {
    let Watch { host, grant_id } = args;
    let signer = env.reader(&host).await?;
    let plan = env.plan(host)?;
    let only = grant_id.map(|id| id.to_string());
    let live = !env.console.json && io::stdout().is_terminal();
    let mut screen = Screen { title: plan.target.to_string(), live, drawn: 0, grants: BTreeMap::new() };
    let mut away: Option<Instant> = None;
    loop {
        let watched = watch_once(env, &plan, signer.as_ref(), only.as_deref(), &mut screen, &mut away).await;
        let failure = match watched.map_err(signed_by(signer.as_ref())) {
            Ok(End::Over) => return screen.close(),
            // The signed read has expired. The next round signs another.
            Ok(End::Renew) => {
                sleep(RENEW_EVERY).await;
                continue;
            }
            Err(failure) if failure.kind != Kind::Unreachable => return Err(failure),
            Err(failure) => failure,
        };
        // An unreachable host at the start is an error; later it may come back.
        let since = *away.get_or_insert_with(Instant::now);
        if screen.drawn == 0 && screen.grants.is_empty() || since.elapsed() > PATIENCE {
            return Err(failure);
        }
        env.console.note(format!("{failure}; trying again"));
        screen.drawn = 0;
        sleep(Duration::from_secs(2)).await;
    }
}

async fn watch_once(
    env: &Env,
    plan: &Plan,
    signer: Option<&Arc<Signer>>,
    only: Option<&str>,
    screen: &mut Screen,
    away: &mut Option<Instant>,
) -> Result<End> {
    let mut session = plan.open(Reach::Any).await?;
    let read = env.read(&mut session, signer).await?;
    let address = session.address.clone();
    let mut first = None;
    if let Some(id) = only {
        let call = GetGrantRequest { read: read.clone(), id: id.to_owned() };
        first = limited(session.access().get_grant(call), &address).await?.grant;
    }
    let call = WatchGrantsRequest { read: read.clone() };
    let stream = timeout(CALL_LIMIT, session.access().watch_grants(call)).await;
    let late = |_| Failure::new(Kind::Unreachable, "the host does not answer");
    let stream = stream.map_err(late)?.map_err(|status| Failure::from_status(&status, &address))?.into_inner();
    *away = None;
    if let Some(grant) = first
        && screen.take(env, grant, only)?
    {
        return Ok(End::Over);
    }
    // The stream starts with live grants. Grants that ended since the last stream need a call each.
    for id in screen.living() {
        let call = GetGrantRequest { read: read.clone(), id: id.clone() };
        match limited(session.access().get_grant(call), &address).await {
            Ok(GetGrantResponse { grant: Some(grant), .. }) => drop(screen.take(env, grant, only)?),
            // The host no longer has this grant.
            _ => drop(screen.grants.remove(&id)),
        }
    }
    follow(env, stream, &address, only, screen).await
}

async fn follow(
    env: &Env,
    mut stream: Streaming<WatchGrantsResponse>,
    address: &str,
    only: Option<&str>,
    screen: &mut Screen,
) -> Result<End> {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(WatchGrantsResponse { grant: Some(grant), warning: Some(warning) })) => {
                    screen.warn(env, grant, warning, only)?;
                }
                Ok(Some(WatchGrantsResponse { grant: Some(grant), warning: None })) => {
                    if screen.take(env, grant, only)? {
                        return Ok(End::Over);
                    }
                }
                Ok(Some(WatchGrantsResponse { grant: None, .. })) => {}
                Ok(None) => return Err(Failure::new(Kind::Unreachable, "the host ended the watch")),
                Err(status) => {
                    let failure = Failure::from_status(&status, address);
                    return if failure.is_expired() { Ok(End::Renew) } else { Err(failure) };
                }
            },
            _ = tick.tick(), if screen.live => screen.draw()?,
        }
    }
}

enum End {
    Over,
    Renew,
}

/// A grant with the time of its arrival: its time left counts down on the monotonic clock from there.
struct Heard {
    grant: Grant,
    at: Instant,
    warning: Option<String>,
}

struct Screen {
    title: String,
    live: bool,
    /// How many lines the next frame replaces.
    drawn: usize,
    grants: BTreeMap<String, Heard>,
}

impl Screen {
    /// True when the change ends the watch.
    fn take(&mut self, env: &Env, grant: Grant, only: Option<&str>) -> Result<bool> {
        if only.is_some_and(|only| only != grant.id) {
            return Ok(false);
        }
        if !self.live && self.grants.get(&grant.id).is_none_or(|heard| changed(&heard.grant, &grant)) {
            Self::line(env, &grant)?;
        }
        let over = !view::lives(&grant);
        self.grants.insert(grant.id.clone(), Heard { grant, at: Instant::now(), warning: None });
        if self.live {
            self.draw()?;
        }
        Ok(over && only.is_some())
    }

    fn warn(&mut self, env: &Env, grant: Grant, warning: EndWarning, only: Option<&str>) -> Result<()> {
        if only.is_some_and(|only| only != grant.id) {
            return Ok(());
        }
        if env.console.json {
            return env.console.out_json(&WatchGrantsResponse { grant: Some(grant), warning: Some(warning) });
        }
        let sentence = view::warning(&grant, &warning, &self.title);
        if !self.live {
            return env.console.out(&sentence);
        }
        self.grants.insert(grant.id.clone(), Heard { grant, at: Instant::now(), warning: Some(sentence) });
        self.draw()
    }

    /// The grants that were live at their last change.
    fn living(&self) -> Vec<String> {
        let living = self.grants.iter().filter(|(_, heard)| view::lives(&heard.grant));
        living.map(|(id, _)| id.clone()).collect()
    }

    fn line(env: &Env, grant: &Grant) -> Result<()> {
        if env.console.json {
            return env.console.out_json(&WatchGrantsResponse { grant: Some(grant.clone()), warning: None });
        }
        let rows = view::grants(std::iter::once(grant), view::left_or_end);
        env.console.out(rows.last().map_or("", String::as_str))
    }

    fn draw(&mut self) -> Result<()> {
        let now = Instant::now();
        self.grants.retain(|_, heard| view::lives(&heard.grant) || now.duration_since(heard.at) < SHOW_ENDED);
        let (width, height) = size();
        let lines = self.frame(now, width, height);
        let mut text = String::from("\x1b[?25l");
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}F", self.drawn));
        }
        text.push_str("\x1b[J");
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        put(&text)
    }

    /// The frame at `now`, cut to the terminal's size.
    fn frame(&self, now: Instant, width: usize, height: usize) -> Vec<String> {
        let live = self.grants.values().filter(|heard| view::state(&heard.grant) == "active").count();
        let mut lines = vec![format!("{}: {live} live (Ctrl-C ends the watch, not the grants)", self.title)];
        let time = |grant: &Grant| match self.grants.get(&grant.id) {
            Some(heard) if view::state(grant) == "active" => {
                text::left(view::remaining(grant).saturating_sub(now.duration_since(heard.at)))
            }
            _ => view::left_or_end(grant),
        };
        if !self.grants.is_empty() {
            lines.extend(view::grants(self.grants.values().map(|heard| &heard.grant), time));
        }
        // Warnings come last, where people look. A table that fills the screen hides them.
        lines.extend(self.grants.values().filter_map(|heard| heard.warning.clone()));
        lines.truncate(height.saturating_sub(1).max(1));
        // The same last escape as in [`crate::console`].
        lines.into_iter().map(|line| postern_core::text::line(&line).chars().take(width).collect()).collect()
    }

    fn close(&self) -> Result<()> {
        if self.live { put("\x1b[?25h") } else { Ok(()) }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Whether anything besides the time left differs.
fn changed(before: &Grant, after: &Grant) -> bool {
    Grant { remaining: None, ..before.clone() } != Grant { remaining: None, ..after.clone() }
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

fn put(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Kind::Local, format!("cannot write to the terminal: {error}")))
}

#[cfg(test)]
mod tests {
    use postern_proto::v1::GrantState;

    use super::*;

    fn grant(id: &str, seconds: u64) -> Grant {
        Grant {
            id: id.to_owned(),
            state: GrantState::Active.into(),
            ports: vec!["22/tcp".to_owned()],
            remaining: Some(Duration::from_secs(seconds).into()),
            ..Grant::default()
        }
    }

    #[test]
    fn time_left_runs_down_from_when_it_was_heard_and_lines_fit_the_terminal() {
        let at = Instant::now();
        let grants = [("a", 1800), ("b", 5)]
            .map(|(id, left)| (id.to_owned(), Heard { grant: grant(id, left), at, warning: None }));
        let screen = Screen { title: "vm1:7322".to_owned(), live: false, drawn: 0, grants: grants.into() };
        let frame = screen.frame(at + Duration::from_secs(7), 200, 24);
        assert!(frame[0].starts_with("vm1:7322: 2 live"), "{frame:?}");
        assert!(frame[2].contains("29m 53s") && frame[3].contains(" 0s "), "{frame:?}");
        let mut screen = screen;
        screen.grants.get_mut("b").expect("it is watched").warning = Some("ends in 1m".to_owned());
        assert_eq!(screen.frame(at, 200, 24).last().map(String::as_str), Some("ends in 1m"));
        let small = screen.frame(at, 10, 3);
        assert_eq!(small.len(), 2);
        assert!(small.iter().all(|line| line.chars().count() <= 10), "{small:?}");
    }
}
