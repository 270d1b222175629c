//! Room for one more grant or waiting request. Owns one principal's shares of the kernel's maps and waiting requests. It changes nothing.

use std::collections::BTreeSet;

use super::room::without_roots_part;
use super::{Capacity, Ledger, Room};
use crate::grant::{AccessRequest, Grant};
use crate::policy::Judgement;
use crate::refusal::{Reason, Refusal};
use crate::signer::Signer;
use crate::time::Now;

impl Ledger {
    /// Turns a judged request into a grant with its own slot. The requester is the first of `signers`.
    /// # Errors
    /// [`Reason::TableFull`]; [`Reason::Unsigned`] without signers.
    pub fn admit(
        &self,
        signers: &[Signer],
        request: &AccessRequest,
        judgement: &Judgement,
        capacity: Capacity,
        now: &Now,
    ) -> Result<Grant, Refusal> {
        let Some((requester, approvers)) = signers.split_first() else {
            return Err(Refusal::new(Reason::Unsigned, "nobody signed"));
        };
        let slot = self.free_slot(requester, capacity)?;
        let grant = Grant {
            id: request.header.id,
            signer: requester.clone(),
            approvers: approvers.to_vec(),
            ports: request.ports.clone(),
            sources: request.sources.clone(),
            created: now.wall,
            not_before: request.not_before.filter(|_| judgement.starts_boot > now.boot),
            starts_boot: judgement.starts_boot,
            expires: now.wall_at(judgement.expires_boot),
            expires_boot: judgement.expires_boot,
            boot_id: now.boot_id,
            slot,
            supersedes: request.supersedes,
            chain_boot: judgement.chain_boot,
            first_use_within: judgement.first_use_within,
            idle_timeout: judgement.idle_timeout,
            break_glass: false,
            justification: request.justification.clone(),
            ticket: request.ticket.clone(),
        };
        self.check_entries(&grant, capacity)?;
        Ok(grant)
    }

    /// A slot for one more grant of `requester`. Some slots are only for root on the host.
    fn free_slot(&self, requester: &Signer, capacity: Capacity) -> Result<u32, Refusal> {
        let used: BTreeSet<u32> = self.live().map(|g| g.slot).collect();
        let full = |detail: String| Refusal::new(Reason::TableFull, detail);
        if !requester.is_nobody() {
            let own = self.live().filter(|grant| grant.signer.principal == requester.principal).count();
            if own >= self.room.grants_each {
                return Err(full(format!("{own} live grants of {}", requester.principal)).at("limits.grants_each"));
            }
            if used.len() >= without_roots_part(capacity.slots as usize) {
                return Err(full(format!("{} live grants", used.len())));
            }
        }
        let slot = (0..capacity.slots).find(|slot| !used.contains(slot));
        slot.ok_or_else(|| full(format!("{} live grants", used.len())))
    }

    fn check_entries(&self, grant: &Grant, capacity: Capacity) -> Result<(), Refusal> {
        let full = |detail: String| Refusal::new(Reason::TableFull, detail);
        let keys = |grants: &mut dyn Iterator<Item = &Grant>| {
            grants.flat_map(Grant::keys).chain(grant.keys()).collect::<BTreeSet<_>>().len()
        };
        let signed = !grant.signer.is_nobody();
        let principal = &grant.signer.principal;
        let own = keys(&mut self.live().filter(|other| other.signer.principal == *principal));
        if signed && own > self.room.entries_each {
            let detail = format!("{principal} may have {} entries", self.room.entries_each);
            return Err(full(detail).at("limits.entries_each"));
        }
        let most = if signed { without_roots_part(capacity.entries) } else { capacity.entries };
        if keys(&mut self.live()) > most {
            return Err(full(format!("it holds {most} entries")));
        }
        Ok(())
    }

    /// Checks for room for one more waiting request of `principal`, with so many bytes of payload.
    /// # Errors
    /// [`Reason::TooManyPending`].
    pub fn check_room_to_wait(&self, principal: &str, bytes: usize) -> Result<(), Refusal> {
        let Room { pending, pending_each, pending_bytes, .. } = self.room;
        let owned = self.pending().filter(|pending| pending.signer.principal == principal);
        let kept: usize = owned.map(|pending| pending.payload.len()).sum();
        let (all, own) = self
            .pending()
            .fold((0, 0), |(all, own), pending| (all + 1, own + usize::from(pending.signer.principal == principal)));
        match () {
            () if own >= pending_each => {
                Err(Refusal::new(Reason::TooManyPending, format!("{own} of {principal}; take one back first")))
            }
            () if kept + bytes > pending_bytes => {
                let detail = format!("{kept} bytes of {principal} wait and {pending_bytes} may; take one back first");
                Err(Refusal::new(Reason::TooManyPending, detail))
            }
            () if all >= pending => Err(Refusal::new(Reason::TooManyPending, format!("{all} in all"))),
            () => Ok(()),
        }
    }
}
