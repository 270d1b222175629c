//! Which of the grants is meant when none is named: the only one of the person's own.

use postern_proto::v1::{Grant, GrantState};

use super::{Reading, list};
use crate::{
    failure::{Failure, Result},
    view,
};

/// The person's only grant in one of `states`. Own is what the same key asked for: admins see other people's too.
///
/// # Errors
/// [`crate::failure::Kind::Usage`] when there is none, or more than one; those are listed.
pub(super) async fn only(at: &Reading, states: &[GrantState], command: &str) -> Result<Grant> {
    let found = list::every(at, false, states).await?.grants;
    let key = at.signer.as_ref().and_then(|signer| signer.fingerprint());
    let mine = |grant: &Grant| key.as_ref().is_none_or(|key| *key == grant.key_fingerprint);
    let mut own: Vec<Grant> = found.into_iter().filter(mine).collect();
    let host = &at.session.address;
    match own.len() {
        1 => Ok(own.swap_remove(0)),
        0 => Err(Failure::usage(format!("you have no live grant on {host} with this key"))
            .next(format!("see what there is with postern list {host} --all"))),
        count => {
            let table = view::grants(own.iter(), view::left_or_end).join("\n");
            Err(Failure::usage(format!("{count} grants of yours could be meant:\n{table}"))
                .next(format!("name one: postern {command} {host} GRANT_ID")))
        }
    }
}
