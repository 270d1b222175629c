//! The step between HTTP/2 and the services, for every request.
//!
//! Owns the time-out of a request, and the reasons for requests that tonic refuses before a service gets them. It knows no service.

use std::sync::Arc;

use hyper::body::Incoming;
use postern_core::refusal::{Reason, Refusal};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::accept::Answer;
use super::limits::{Limits, MESSAGE_BYTES};
use super::status::status;

/// Counts a refusal that reaches no service.
pub(super) type Count = Arc<dyn Fn(Reason) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Services {
    pub routes: Routes,
    pub limits: Limits,
    pub count: Count,
}

impl Answer for Services {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let answered = self.routes.clone().call(request.map(Body::new));
        let Ok(answered) = tokio::time::timeout(self.limits.request, answered).await else {
            let late = format!("the request was not answered within {} s. Retry it", self.limits.request.as_secs());
            return Status::deadline_exceeded(late).into_http();
        };
        let Ok(response) = answered;
        match undecodable(response.headers()) {
            None => response,
            Some(refusal) => {
                (self.count)(refusal.reason);
                status(&refusal).into_http()
            }
        }
    }
}

/// The refusal of a message that tonic could not decode. tonic's status has no details, but posternd's own refusals always do.
fn undecodable(headers: &HeaderMap) -> Option<Refusal> {
    let ours = headers.contains_key("grpc-status-details-bin");
    let code = headers.get("grpc-status").filter(|_| !ours)?;
    match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => {
            let detail = format!("the most is {MESSAGE_BYTES} bytes");
            Some(Refusal::new(Reason::MessageTooLarge, detail))
        }
        Code::Internal => Some(Refusal::new(Reason::EnvelopeMalformed, "it is not the protobuf message of this call")),
        _ => None,
    }
}
