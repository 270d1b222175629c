//! `postern.v1.HostService`.
//!
//! Owns nothing but the conversion.

use std::pin::Pin;
use std::sync::Arc;

use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::reads::{busy, peer, reader, refused};
use super::seats::Seats;
use crate::config::Config;
use crate::engine::{Engine, Rules};
use crate::wire;

type Lines = Pin<Box<dyn Stream<Item = Result<v1::WatchAuditResponse, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub(super) struct Host {
    pub engine: Engine,
    pub seats: Arc<Seats>,
    pub tls_fingerprint: Arc<str>,
}

#[tonic::async_trait]
impl v1::host_service_server::HostService for Host {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::GetStatusRequest { read } = request.into_inner();
        let _reader = reader(&self.engine, peer, read).await?;
        let state = self.engine.status().await.map_err(refused)?;
        Ok(Response::new(wire::status(state, &self.seats.losses(), &self.tls_fingerprint)))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let peer = peer(request.extensions())?;
        let busy = busy(request.extensions());
        let mut request = request.into_inner();
        let reader = reader(&self.engine, peer, request.read.take()).await?;
        let filter = wire::audit_filter(request).map_err(refused)?;
        let page = self.engine.audit(&reader, filter).await.map_err(refused)?;
        drop(busy);
        Ok(Response::new(wire::audit(page)))
    }

    type WatchAuditStream = Lines;

    async fn watch_audit(&self, _: Request<v1::WatchAuditRequest>) -> Result<Response<Lines>, Status> {
        Err(Status::unimplemented("it comes with the next commits"))
    }

    async fn get_report(&self, _: Request<v1::GetReportRequest>) -> Result<Response<v1::GetReportResponse>, Status> {
        Err(Status::unimplemented("it comes with the next commits"))
    }

    async fn validate_policy(
        &self,
        request: Request<v1::ValidatePolicyRequest>,
    ) -> Result<Response<v1::ValidatePolicyResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::ValidatePolicyRequest { read, text } = request.into_inner();
        if !reader(&self.engine, peer, read).await?.is_admin() {
            let refusal = Refusal::new(Reason::NotPermitted, "only admins have the host check a policy");
            return Err(refused(refusal.at("role")));
        }
        Ok(Response::new(wire::validated(Config::parse(&text))))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::GetPolicyRequest { read } = request.into_inner();
        let _reader = reader(&self.engine, peer, read).await?;
        let Rules { policy, digest, .. } = self.engine.rules();
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(wire::policy(&policy, &digest)) }))
    }

    async fn list_knocks(
        &self,
        request: Request<v1::ListKnocksRequest>,
    ) -> Result<Response<v1::ListKnocksResponse>, Status> {
        let peer = peer(request.extensions())?;
        let v1::ListKnocksRequest { read } = request.into_inner();
        if !reader(&self.engine, peer, read).await?.sees_all() {
            let refusal = Refusal::new(Reason::NotPermitted, "only viewers, approvers and admins see all knocks");
            return Err(refused(refusal.at("role")));
        }
        let knocks = self.engine.knocks().all().into_iter().map(wire::knock).collect();
        Ok(Response::new(v1::ListKnocksResponse { knocks }))
    }

    async fn break_glass(
        &self,
        request: Request<v1::BreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        if !peer(request.extensions())?.is_local_root() {
            self.engine.count_unverified(Reason::Unsigned);
            return Err(refused(Refusal::new(
                Reason::Unsigned,
                "this one is for root on the host, on the Unix socket",
            )));
        }
        let wish = wire::break_glass(request.into_inner(), Uuid::new_v4()).map_err(refused)?;
        let grant = Some(wire::grant(self.engine.break_glass(wish).await.map_err(refused)?));
        Ok(Response::new(v1::BreakGlassResponse { grant }))
    }
}
