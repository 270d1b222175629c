//! Finds the grant that the user means without naming it: the only one of the user's own.

use postern_proto::v1::{Grant, GrantState};

use super::{Reading, list};
use crate::{
    failure::{Failure, Result},
    view,
};

/// The only grant in one of `states` that the same key requested. Admins also see other people's grants. The error for several lists them.
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
