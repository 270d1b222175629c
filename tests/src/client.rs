//! A gRPC client for tests: blocking, on the Unix socket, where root may read without a signature.
//!
//! Never retries and never hides a status. Other ways in (TLS, grpcurl, `postern`) are for the tests that are about them.

use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::host_service_client::HostServiceClient;
use postern_proto::v1::{
    ApproveAccessRequest, ExplainRequest, ExplainResponse, GetGrantRequest, GetGrantResponse, GetPolicyRequest,
    GetStatusRequest, GetStatusResponse, Grant, ListGrantsRequest, Policy, RequestAccessRequest, RevokeAccessRequest,
    SignedMessage, WhoAmIRequest, WhoAmIResponse,
};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tonic_types::StatusExt as _;

/// How long a call may take. Nothing takes that long; a test that hangs says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Where no process listens there.
    pub fn unix(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?.timeout(PATIENCE);
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self { runtime, channel })
    }

    /// For calls that have no method here: `client.wait(client.access().watch_grants(…))`.
    #[must_use]
    pub fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// As [`Client::access`].
    #[must_use]
    pub fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// Waits for one call.
    pub fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Begins work beside the test.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// `RequestAccess`
    ///
    /// # Errors
    /// The status; see [`reason`].
    pub fn request(&self, message: SignedMessage) -> Result<Grant, Status> {
        let request = RequestAccessRequest { message: Some(message) };
        let response = self.wait(self.access().request_access(request))?;
        response.into_inner().grant.ok_or_else(|| Status::internal("no grant in the response"))
    }

    /// `ApproveAccess`
    ///
    /// # Errors
    /// The status.
    pub fn approve(&self, message: SignedMessage) -> Result<Grant, Status> {
        let request = ApproveAccessRequest { message: Some(message) };
        let response = self.wait(self.access().approve_access(request))?;
        response.into_inner().grant.ok_or_else(|| Status::internal("no grant in the response"))
    }

    /// `GetGrant`, as root.
    ///
    /// # Errors
    /// The status.
    pub fn get(&self, id: &str) -> Result<GetGrantResponse, Status> {
        let request = GetGrantRequest { read: None, id: id.to_owned() };
        self.wait(self.access().get_grant(request)).map(Response::into_inner)
    }

    /// `RevokeAccess`
    ///
    /// # Errors
    /// The status.
    pub fn revoke(&self, message: SignedMessage) -> Result<Grant, Status> {
        let request = RevokeAccessRequest { message: Some(message) };
        let response = self.wait(self.access().revoke_access(request))?;
        response.into_inner().grant.ok_or_else(|| Status::internal("no grant in the response"))
    }

    /// `ListGrants`, as root, ended ones too.
    ///
    /// # Errors
    /// The status.
    pub fn grants(&self) -> Result<Vec<Grant>, Status> {
        let request = ListGrantsRequest { include_ended: true, page_size: 1000, ..Default::default() };
        self.wait(self.access().list_grants(request)).map(|response| response.into_inner().grants)
    }

    /// `WhoAmI`
    ///
    /// # Errors
    /// The status.
    pub fn who_am_i(&self) -> Result<WhoAmIResponse, Status> {
        self.wait(self.access().who_am_i(WhoAmIRequest::default())).map(Response::into_inner)
    }

    /// `Explain`
    ///
    /// # Errors
    /// The status.
    pub fn explain(&self, request: ExplainRequest) -> Result<ExplainResponse, Status> {
        self.wait(self.access().explain(request)).map(Response::into_inner)
    }

    /// `GetPolicy`, as root.
    ///
    /// # Errors
    /// The status.
    pub fn policy(&self) -> Result<Policy, Status> {
        let response = self.wait(self.host().get_policy(GetPolicyRequest::default()))?;
        response.into_inner().policy.ok_or_else(|| Status::internal("no policy in the response"))
    }

    /// `GetStatus`, as root.
    ///
    /// # Errors
    /// The status.
    pub fn status(&self) -> Result<GetStatusResponse, Status> {
        self.wait(self.host().get_status(GetStatusRequest::default())).map(Response::into_inner)
    }

    /// The codes of the conditions in `GetStatus`, as root.
    ///
    /// # Errors
    /// The status.
    pub fn conditions(&self) -> Result<Vec<String>, Status> {
        self.status().map(|status| status.conditions.into_iter().map(|condition| condition.code).collect())
    }

    /// The details of the conditions in `GetStatus`, as root.
    ///
    /// # Errors
    /// The status.
    pub fn details(&self) -> Result<Vec<String>, Status> {
        self.status().map(|status| status.conditions.into_iter().map(|condition| condition.detail).collect())
    }
}

/// The details of all conditions but one: the clock of the emulator is not synchronised.
///
/// # Panics
/// Where root is not answered.
#[must_use]
pub fn unwell(client: &Client) -> Vec<String> {
    let told = client.status().expect("a status").conditions.into_iter();
    told.filter(|condition| condition.code != "clock-untrusted").map(|condition| condition.detail).collect()
}

/// The stable reason in a refusal's `ErrorInfo`; empty when there is none.
#[must_use]
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
