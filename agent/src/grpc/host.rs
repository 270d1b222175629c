//! `postern.v1.HostService`.
//!
//! Owns the order of each call: convert, ask the engine, convert back. It decides nothing.

use std::pin::Pin;
use std::sync::Arc;

use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1;
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Extensions, Request, Response, Status};
use uuid::Uuid;

use super::connections::Connections;
use super::questions::Questions;
use super::reads::{busy, peer, reader, refused, watching};
use super::watching::Watch;
use crate::config::Config;
use crate::engine::{Engine, Published, Reader, Rules};
use crate::grpc::convert;
use crate::journal::scan::Filter;

type Lines = Pin<Box<dyn Stream<Item = Result<v1::WatchAuditResponse, Status>> + Send>>;

#[derive(Clone)]
pub(super) struct Host {
    pub engine: Engine,
    pub connections: Arc<Connections>,
    pub tls_fingerprint: Arc<str>,
    pub watchers: Arc<Semaphore>,
    pub questions: Arc<Questions>,
}

#[tonic::async_trait]
impl v1::host_service_server::HostService for Host {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::GetStatusRequest { read } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let state = self.engine.status(&reader).await.map_err(refused)?;
        let api: Vec<_> = self.connections.losses().into_iter().chain(self.questions.count()).collect();
        Ok(Response::new(convert::status(state, &api, &self.tls_fingerprint)))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let peer = peer(request.extensions())?;
        let busy = busy(request.extensions());
        let mut request = request.into_inner();
        let reader = reader(&self.engine, peer, request.read.take()).await?;
        let filter = convert::audit_filter(request).map_err(refused)?;
        let page = self.engine.audit(&reader, filter).await.map_err(refused)?;
        drop(busy);
        Ok(Response::new(convert::audit(page)))
    }

    type WatchAuditStream = Lines;

    async fn watch_audit(&self, request: Request<v1::WatchAuditRequest>) -> Result<Response<Lines>, Status> {
        let peer = peer(request.extensions())?;
        let busy = busy(request.extensions());
        let mut request = request.into_inner();
        let reader = reader(&self.engine, peer, request.read.take()).await?;
        let filter = convert::watch_filter(request).map_err(refused)?;
        let lines = self.engine.watch_audit(&reader).await.map_err(refused)?;
        let place = watching(&self.engine, &reader, &self.watchers)?;
        let reader = reader.answered();
        let show = move |line, _: &Reader| {
            let _held = (&busy, &place);
            shown(line, &filter)
        };
        let watch = Watch::new(&self.engine, reader, BroadcastStream::new(lines), show).only_if(may_audit);
        Ok(Response::new(Box::pin(watch)))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let peer = peer(request.extensions())?;
        let busy = busy(request.extensions());
        let v1::GetReportRequest { read, period } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let period = convert::period(period).map_err(refused)?;
        let report = self.engine.report(&reader, period).await.map_err(refused)?;
        drop(busy);
        Ok(Response::new(convert::report(report)))
    }

    async fn validate_policy(
        &self,
        request: Request<v1::ValidatePolicyRequest>,
    ) -> Result<Response<v1::ValidatePolicyResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::ValidatePolicyRequest { read, text } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        if !self.engine.reread(&reader).await.map_err(refused)?.is_admin() {
            return Err(refused(self.engine.not_permitted(&reader, "only admins may validate a policy").await));
        }
        Ok(Response::new(convert::validated(Config::parse(&text))))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::GetPolicyRequest { read } = request.into_inner();
        let _reader = reader(&self.engine, peer, read).await?;
        let Rules { policy, digest, .. } = self.engine.rules();
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(convert::policy(&policy, &digest)) }))
    }

    async fn list_denied(
        &self,
        request: Request<v1::ListDeniedRequest>,
    ) -> Result<Response<v1::ListDeniedResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::ListDeniedRequest { read } = request.into_inner();
        let reader = reader(&self.engine, peer, read).await?;
        let denied = self.engine.all_denied(&reader).await.map_err(refused)?;
        let denied = denied.into_iter().map(convert::attempt).collect();
        Ok(Response::new(v1::ListDeniedResponse { denied }))
    }

    async fn break_glass(
        &self,
        request: Request<v1::BreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        self.need_local_root(request.extensions())?;
        let wish = convert::break_glass(request.into_inner(), Uuid::new_v4()).map_err(refused)?;
        let grant = Some(convert::grant(self.engine.break_glass(wish).await.map_err(refused)?));
        Ok(Response::new(v1::BreakGlassResponse { grant }))
    }

    async fn enable(&self, request: Request<v1::EnableRequest>) -> Result<Response<v1::EnableResponse>, Status> {
        self.need_local_root(request.extensions())?;
        let v1::EnableRequest { confirm_within, only_while_running } = request.into_inner();
        let within = convert::trial(confirm_within).map_err(refused)?;
        let mode = Some(convert::mode(self.engine.enable(within, only_while_running).await.map_err(refused)?));
        Ok(Response::new(v1::EnableResponse { mode }))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmResponse>, Status> {
        self.need_local_root(request.extensions())?;
        let v1::ConfirmRequest { without_proof } = request.into_inner();
        let (mode, grant) = self.engine.confirm(without_proof).await.map_err(refused)?;
        let grant_id = grant.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ConfirmResponse { mode: Some(convert::mode(mode)), grant_id }))
    }

    async fn roll_back(&self, request: Request<v1::RollBackRequest>) -> Result<Response<v1::RollBackResponse>, Status> {
        self.need_local_root(request.extensions())?;
        let v1::RollBackRequest {} = request.into_inner();
        let mode = Some(convert::mode(self.engine.roll_back().await.map_err(refused)?));
        Ok(Response::new(v1::RollBackResponse { mode }))
    }
}

impl Host {
    /// Refuses every caller but root on the Unix socket, with or without a signature.
    fn need_local_root(&self, extensions: &Extensions) -> Result<(), Status> {
        if peer(extensions)?.is_local_root() {
            return Ok(());
        }
        self.engine.count_unverified(Reason::Unsigned);
        Err(refused(Refusal::new(Reason::Unsigned, "only root may make this call, on the host's Unix socket")))
    }
}

/// Refuses a watcher that may not read the journal any more.
fn may_audit(reader: &Reader) -> Result<(), Refusal> {
    if reader.may_audit() {
        return Ok(());
    }
    Err(Refusal::new(Reason::NotPermitted, "the rules no longer let you read the journal").at("role"))
}

/// The message for one line. If the reader was too slow and missed lines, the stream ends with an error.
fn shown(
    line: Result<Arc<Published>, BroadcastStreamRecvError>,
    filter: &Filter,
) -> Option<Result<v1::WatchAuditResponse, Status>> {
    match line {
        Ok(line) if filter.matches(&line.record, line.life.as_ref()) => {
            Some(Ok(v1::WatchAuditResponse { entry: Some(convert::entry(line.entry())) }))
        }
        Ok(_) => None,
        Err(BroadcastStreamRecvError::Lagged(missed)) => Some(Err(Status::resource_exhausted(format!(
            "{missed} lines were missed. ListAudit has them. Call WatchAudit again"
        )))),
    }
}
