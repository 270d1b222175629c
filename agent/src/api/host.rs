//! `postern.v1.HostService`.
//!
//! Owns nothing but the conversion.

use std::sync::Arc;

use postern_proto::v1;
use tonic::{Request, Response, Status};

use super::reads::{busy, peer, reader, refused};
use super::seats::Seats;
use crate::engine::Engine;
use crate::wire;

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
}
