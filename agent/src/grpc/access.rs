//! `postern.v1.AccessService`.
//!
//! Owns the order of each call: convert, ask the engine, convert back. It decides nothing.

use std::pin::Pin;
use std::sync::Arc;

use postern_core::refusal::Refusal;
use postern_proto::v1;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::peer::Reached;
use super::questions::Questions;
use super::reads::{busy, peer, reader, refused, watching};
use super::statement::Statements;
use super::watching::Watch;
use crate::engine::{Engine, Filter, GrantUpdate, GrantView, Reader};
use crate::grpc::convert;
use crate::payload;
use crate::proof::HostKeys;

#[derive(Clone)]
pub(super) struct Access {
    pub engine: Engine,
    pub statements: Statements,
    pub host_keys: Arc<HostKeys>,
    pub watchers: Arc<Semaphore>,
    pub questions: Arc<Questions>,
}

type Answer<T> = Result<Response<T>, Status>;
type Changes = Pin<Box<dyn Stream<Item = Result<v1::WatchGrantsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl v1::access_service_server::AccessService for Access {
    type WatchGrantsStream = Changes;

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        let peer = peer(request.extensions())?;
        let Reached(local_address) = request.extensions().get().copied().unwrap_or(Reached(None));
        let v1::WhoAmIRequest { nonce, ports } = request.into_inner();
        let called = convert::Called { address: peer.address(), local_address };
        // The limit on statements for each source also limits guesses of port names.
        let ports = if nonce.is_empty() { Vec::new() } else { ports };
        let ports =
            convert::meanings(ports, &self.engine.rules().policy, called.address).map_err(|r| self.uncounted(r))?;
        let proof = self.host_keys.current().await;
        let answer = convert::who_am_i(self.engine.who_am_i(), called, self.statements.fingerprint(), &proof);
        let answer = v1::WhoAmIResponse { ports, ..answer };
        let stated = self.statements.state(peer, answer, &nonce).await;
        stated.map(Response::new).map_err(|refusal| self.uncounted(refusal))
    }

    async fn request_access(&self, request: Request<v1::RequestAccessRequest>) -> Answer<v1::RequestAccessResponse> {
        let v1::RequestAccessRequest { message } = request.into_inner();
        let granted = self.engine.request(convert::signed(message).map_err(|r| self.uncounted(r))?).await;
        let grant = Some(convert::grant(granted.map_err(refused)?));
        Ok(Response::new(v1::RequestAccessResponse { grant }))
    }

    async fn approve_access(&self, request: Request<v1::ApproveAccessRequest>) -> Answer<v1::ApproveAccessResponse> {
        let v1::ApproveAccessRequest { message } = request.into_inner();
        let approved = self.engine.approve(convert::signed(message).map_err(|r| self.uncounted(r))?).await;
        let grant = Some(convert::grant(approved.map_err(refused)?));
        Ok(Response::new(v1::ApproveAccessResponse { grant }))
    }

    async fn revoke_access(&self, request: Request<v1::RevokeAccessRequest>) -> Answer<v1::RevokeAccessResponse> {
        let v1::RevokeAccessRequest { message } = request.into_inner();
        let ended = self.engine.revoke(convert::signed(message).map_err(|r| self.uncounted(r))?).await;
        let grant = Some(convert::grant(ended.map_err(refused)?));
        Ok(Response::new(v1::RevokeAccessResponse { grant }))
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Answer<v1::GetGrantResponse> {
        let peer = peer(request.extensions())?;
        let v1::GetGrantRequest { read, id } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let id = payload::uuid(&id, "id").map_err(refused)?;
        let view = self.engine.get(&reader, id).await.map_err(refused)?;
        let request = convert::request_of(&view);
        Ok(Response::new(v1::GetGrantResponse { grant: Some(convert::grant(view)), request }))
    }

    async fn list_grants(&self, request: Request<v1::ListGrantsRequest>) -> Answer<v1::ListGrantsResponse> {
        let peer = peer(request.extensions())?;
        let v1::ListGrantsRequest { read, include_ended, page_size, page_token, states } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let filter = Filter { include_ended, states: convert::states(&states).map_err(refused)? };
        let (size, before) = convert::page(page_size, &page_token).map_err(refused)?;
        // One grant more than the page shows whether there is another page.
        let mut grants = self.engine.list(&reader, filter, before, size + 1).await.map_err(refused)?;
        let more = grants.len() > size;
        grants.truncate(size);
        let next_page_token = grants.last().filter(|_| more).map(|g| g.seq.to_string()).unwrap_or_default();
        let grants = grants.into_iter().map(convert::grant).collect();
        Ok(Response::new(v1::ListGrantsResponse { grants, next_page_token }))
    }

    async fn watch_grants(&self, request: Request<v1::WatchGrantsRequest>) -> Answer<Changes> {
        let peer = peer(request.extensions())?;
        let busy = busy(request.extensions());
        let v1::WatchGrantsRequest { read } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let place = watching(&self.engine, &reader, &self.watchers)?;
        // Subscribe before reading the present state, so that no change is lost in between.
        let changes = BroadcastStream::new(self.engine.watch());
        let now = self.snapshot(&reader).await.map_err(refused)?;
        let reader = reader.answered();
        let now = now.into_iter().rev().map(|view| Ok(GrantUpdate { view, warning: None }));
        let show = move |change, reader: &Reader| {
            let _held = (&busy, &place);
            visible(change, reader).map(|change| change.map(convert::change))
        };
        let stream = Watch::new(&self.engine, reader, tokio_stream::iter(now).chain(changes), show);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let peer = peer(request.extensions())?;
        let mut request = request.into_inner();
        let reader = reader(&self.engine, peer, request.read.take()).await?;
        let query = convert::query(request, peer.address()).map_err(refused)?;
        let explanation = self.engine.explain(&reader, query).await.map_err(refused)?;
        Ok(Response::new(convert::explanation(explanation)))
    }

    async fn which_keys_count(
        &self,
        request: Request<v1::WhichKeysCountRequest>,
    ) -> Answer<v1::WhichKeysCountResponse> {
        let peer = peer(request.extensions())?;
        self.questions.take(peer, self.engine.boot_now()).map_err(|refusal| self.uncounted(refusal))?;
        let (role, keys) = convert::which_keys(request.into_inner()).map_err(|refusal| self.uncounted(refusal))?;
        let counts = self.engine.which_keys_count(role, &keys);
        Ok(Response::new(v1::WhichKeysCountResponse { counts }))
    }
}

impl Access {
    /// All requests and grants that have not ended and that `reader` may see, the newest first.
    async fn snapshot(&self, reader: &Reader) -> Result<Vec<GrantView>, Refusal> {
        let mut all: Vec<GrantView> = Vec::new();
        loop {
            let before = all.last().map(|g| g.seq);
            let page = self.engine.list(reader, Filter::default(), before, convert::MOST_PER_PAGE).await?;
            let last = page.len() < convert::MOST_PER_PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// Counts a refusal that the engine has not counted.
    fn uncounted(&self, refusal: Refusal) -> Status {
        self.engine.count_unverified(refusal.reason);
        refused(refusal)
    }
}

/// A change that `reader` may see. If the reader was too slow and missed changes, the stream ends with an error.
fn visible(
    change: Result<GrantUpdate, BroadcastStreamRecvError>,
    reader: &Reader,
) -> Option<Result<GrantUpdate, Status>> {
    match change {
        Ok(change) => reader.may_see(&change.view.life.signer().principal).then_some(Ok(change)),
        Err(BroadcastStreamRecvError::Lagged(missed)) => {
            Some(Err(Status::resource_exhausted(format!("{missed} changes were missed. Call WatchGrants again"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use postern_core::envelope::Signer;
    use postern_core::grant::{Grant, Use};
    use postern_core::request::{Request, State};
    use postern_core::time::BootNanos;
    use tokio::sync::broadcast;
    use uuid::Uuid;

    use super::*;
    use crate::engine::Rights;

    fn change(seq: u64, principal: &str) -> GrantUpdate {
        let signer = Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None };
        let grant = Grant {
            ports: vec!["22/tcp".parse().unwrap()],
            sources: vec!["192.0.2.7/32".parse().unwrap()],
            expires_boot: BootNanos(1),
            ..Grant::of_nothing(Uuid::from_u128(seq.into()), signer, Timestamp::UNIX_EPOCH, Uuid::nil())
        };
        let view = GrantView {
            seq,
            life: Request::Granted(grant),
            state: State::Active,
            ending: None,
            remaining_ns: 1,
            usage: Use::default(),
            steps: Vec::new(),
            superseded_by: None,
        };
        GrantUpdate { view, warning: None }
    }

    fn person(sees_all: bool) -> Reader {
        Reader::with("alice", Rights { sees_all, ..Rights::default() })
    }

    #[test]
    fn a_watcher_sees_what_a_reader_may_see() {
        for (owner, reader, seen) in [
            ("alice", person(false), true),
            ("bob", person(false), false),
            ("bob", person(true), true),
            ("bob", Reader::Root, true),
        ] {
            assert_eq!(visible(Ok(change(1, owner)), &reader).is_some(), seen, "{owner} {reader:?}");
        }
    }

    #[tokio::test]
    async fn a_watcher_that_fell_behind_is_told_and_the_writer_never_waits() {
        let (writer, reader) = broadcast::channel(2);
        for seq in 0..5 {
            writer.send(change(seq, "alice")).unwrap();
        }
        let mut stream = BroadcastStream::new(reader).filter_map(|change| visible(change, &Reader::Root));
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }
}
