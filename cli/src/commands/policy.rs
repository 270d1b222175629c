//! `postern policy`: the rules in force, and the check of a file with new ones.

use std::path::Path;

use postern_proto::v1::{GetPolicyRequest, ValidatePolicyRequest, ValidatePolicyResponse};

use super::{Env, Reading, files};
use crate::{
    args::{Policy, PolicyCheck},
    failure::{Failure, Kind, Result},
    target::Target,
    text, view,
};

/// A call holds 64 KiB, including the signed read.
const MOST_BYTES: u64 = 60 * 1024;

pub(super) async fn run(env: &Env, args: Policy) -> Result<()> {
    match args {
        Policy::Show(args) => show(env, args.host).await,
        Policy::Check(args) => check(env, args).await,
    }
}

async fn show(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let found = at.ask(at.host().get_policy(GetPolicyRequest { read: at.read.clone() })).await?;
    if env.console.json {
        return env.console.out_json(&found);
    }
    let policy = found.policy.ok_or_else(|| Failure::new(Kind::HostFailed, "the host's answer has no policy"))?;
    env.console.out(view::policy(&policy).join("\n"))
}

/// The problems are the result, so they go to standard output. The exit code is that of a refusal.
async fn check(env: &Env, args: PolicyCheck) -> Result<()> {
    let PolicyCheck { host, file } = args;
    let bytes = files::read(&file, MOST_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{} is not UTF-8", file.display())))?;
    let at = Reading::open(env, host).await?;
    let call = ValidatePolicyRequest { read: at.read.clone(), text };
    let found = at.ask(at.host().validate_policy(call)).await?;
    if env.console.json {
        env.console.out_json(&found)?;
    } else {
        tell(env, &file, &found)?;
    }
    match found.problems.len() {
        0 => Ok(()),
        count => {
            let what = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
            Err(Failure::new(Kind::Refused, format!("{} has {what}; the host changed nothing", file.display())))
        }
    }
}

fn tell(env: &Env, file: &Path, found: &ValidatePolicyResponse) -> Result<()> {
    let name = text::clean(&file.display().to_string());
    for problem in &found.problems {
        env.console.out(view::problem(&name, problem))?;
    }
    match &found.policy {
        Some(policy) if found.problems.is_empty() => {
            env.console.out(format!("{name} is valid. It would mean:"))?;
            env.console.out(view::policy(policy).join("\n"))
        }
        None if found.problems.is_empty() => env.console.out(format!("{name} is valid")),
        _ => Ok(()),
    }
}
