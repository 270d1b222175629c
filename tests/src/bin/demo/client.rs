//! The person's side: writes requests, has ssh-keygen sign them, sends them over TLS.
//!
//! Owns one connection to the API. Signs with the real ssh-keygen, never with a library.

use crate::Result;
use crate::lab::{API, BULK, HOST, Lab, PLAIN, SSH};
use postern_cli::connect;
use postern_cli::payload::{self, Binding, Lifetime, Purpose, Wish};
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{
    GetGrantRequest, Grant, RequestAccessRequest, RevokeAccessRequest, Signature, SignedMessage, WhoAmIRequest,
    WhoAmIResponse,
};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// One connection from the client's host.
pub struct Client {
    runtime: Runtime,
    api: AccessServiceClient<Channel>,
    key: PathBuf,
}

impl Client {
    /// Connects with TLS from the client's host.
    pub fn connect(lab: &Lab) -> Result<Self> {
        let key = lab.path("alice");
        lab.net
            .client
            .run(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                let runtime = runtime.map_err(|error| error.to_string())?;
                let link = runtime.block_on(connect::tls("host", (HOST, API).into(), None));
                let link = link.map_err(|error| format!("{error:?}"))?;
                Ok::<_, String>(Self { runtime, api: AccessServiceClient::new(link.channel), key })
            })
            .map_err(Into::into)
    }

    /// What the host says about itself and us.
    pub fn who_am_i(&mut self) -> Result<WhoAmIResponse> {
        Ok(self.runtime.block_on(self.api.who_am_i(WhoAmIRequest {}))?.into_inner())
    }

    /// A signed request for every protected port, for us alone.
    pub fn sign_request(&self, who: &WhoAmIResponse, duration: Duration) -> Result<(String, SignedMessage)> {
        let wish = Wish {
            ports: [SSH, PLAIN, BULK].map(|port| format!("{port}/tcp")).into(),
            source: vec![format!("{}/32", who.address)],
            lifetime: Lifetime::For(duration),
            justification: "the demo".to_owned(),
            ticket: String::new(),
        };
        let request = payload::access_request(wish, Binding::to_host(who, Purpose::Request));
        let message = self.sign(&request, Purpose::Request)?;
        Ok((request.id, message))
    }

    /// Sends a signed request.
    pub fn request(&mut self, message: SignedMessage) -> Result<Grant> {
        let request = RequestAccessRequest { message: Some(message) };
        let response = self.runtime.block_on(self.api.request_access(request)).map_err(told)?;
        response.into_inner().grant.ok_or_else(|| "the answer has no grant".into())
    }

    /// Ends a grant.
    pub fn revoke(&mut self, id: &str) -> Result<()> {
        let who = self.who_am_i()?;
        let request = payload::revoke_request(id.to_owned(), String::new(), Binding::to_host(&who, Purpose::Revoke));
        let message = Some(self.sign(&request, Purpose::Revoke)?);
        self.runtime.block_on(self.api.revoke_access(RevokeAccessRequest { message })).map_err(told)?;
        Ok(())
    }

    /// A grant as the host sees it now.
    pub fn grant(&mut self, id: &str) -> Result<Grant> {
        let who = self.who_am_i()?;
        let read = Some(self.sign(&payload::read_request(Binding::to_host(&who, Purpose::Read)), Purpose::Read)?);
        let request = GetGrantRequest { read, id: id.to_owned() };
        let response = self.runtime.block_on(self.api.get_grant(request)).map_err(told)?;
        response.into_inner().grant.ok_or_else(|| "the answer has no grant".into())
    }

    fn sign(&self, message: &impl Serialize, purpose: Purpose) -> Result<SignedMessage> {
        let payload = serde_json::to_vec(message)?;
        let mut signer = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", purpose.namespace(), "-f"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Dropped at the end of the statement: ssh-keygen reads to the end.
        signer.stdin.take().ok_or("no pipe to ssh-keygen")?.write_all(&payload)?;
        let output = signer.wait_with_output()?;
        let sshsig = String::from_utf8(output.stdout)?;
        let payload_type = purpose.payload_type().to_owned();
        Ok(SignedMessage { payload, payload_type, signatures: vec![Signature { sshsig }] })
    }
}

fn told(status: tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
