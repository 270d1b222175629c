//! The person's side: has ssh-keygen sign a request, and sends it over TLS from the client's host.
//!
//! Owns one connection to the API.

use crate::Result;
use crate::lab::{API, BULK, HOST, Lab, PLAIN, SSH};
use postern_cli::connect;
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{Grant, RequestAccessRequest, SignedMessage, WhoAmIRequest};
use postern_tests::keys::Key;
use postern_tests::postern::AUDIENCE;
use postern_tests::request::Access;
use std::net::IpAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// One connection from the client's host.
pub struct Client {
    runtime: Runtime,
    api: AccessServiceClient<Channel>,
    key: Key,
}

impl Client {
    /// Connects with TLS.
    pub fn connect(lab: &Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let connecting = connect::tls(AUDIENCE, (HOST, API).into(), None);
        // A socket belongs to the namespace that it was made in, whoever uses it later.
        let (runtime, link) = lab.net.client.run(move || {
            let link = runtime.block_on(connecting);
            (runtime, link)
        });
        let link = link.map_err(|error| format!("{error:?}"))?;
        Ok(Self { runtime, api: AccessServiceClient::new(link.channel), key: lab.postern.alice.clone() })
    }

    /// Our address as the host sees it.
    pub fn address(&mut self) -> Result<IpAddr> {
        let answer = self.runtime.block_on(self.api.who_am_i(WhoAmIRequest::default()))?;
        Ok(answer.into_inner().address.parse()?)
    }

    /// A signed request for every protected port, for one address.
    pub fn sign(&self, source: IpAddr, life: Duration) -> (String, SignedMessage) {
        let ports = [SSH, PLAIN, BULK].map(|port| format!("{port}/tcp"));
        let access = Access::new(AUDIENCE, &ports.each_ref().map(String::as_str), &[source], life.as_secs());
        (access.id.clone(), access.seal(&self.key))
    }

    /// Sends a signed request.
    pub fn request(&mut self, message: SignedMessage) -> Result<Grant> {
        let request = RequestAccessRequest { message: Some(message) };
        let refused = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
        let response = self.runtime.block_on(self.api.request_access(request)).map_err(refused)?;
        response.into_inner().grant.ok_or_else(|| "the answer has no grant".into())
    }
}
