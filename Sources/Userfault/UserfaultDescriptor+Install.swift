import CShims
import Glibc
import PageCore

// Installing pages. Each call completes its range as far as it can: a page that was mapped before (EEXIST) is stepped
// over unless the caller wants to know, and the kernel's partial successes (EAGAIN with bytes done) are continued. The kernel
// takes a range only within one of the process's mappings, and an mprotect or madvise of a part makes several of one (ENOENT, as
// for what is not mapped at all): such a range is halved until it fits, and a single page that does not is stepped over. So the
// loop makes at most one turn a page, and a few at each boundary. No allocation.

extension UserfaultDescriptor {
    /// Maps the pages of [address, address + lengthBytes), whose bytes are already in the file's page cache, and wakes
    /// the threads that wait for them (`UFFDIO_CONTINUE`). For ranges registered `minor`.
    ///
    /// EFAULT when a page is absent from the cache: write it first through another mapping, or through `MemoryFile`.
    public func continueRange(address: UInt, lengthBytes: Int, pageSize: PageSize) -> InstallOutcome {
        install(address: address, lengthBytes: lengthBytes, pageSize: pageSize) { offset, rest in
            pageferry_userfault_continue(rawValue, UInt64(address) + UInt64(offset), UInt64(rest))
        }
    }

    /// Copies `lengthBytes` from `source`, in this process, to fresh pages at `address` and wakes the threads that wait
    /// for them (`UFFDIO_COPY`). For anonymous and shared memory.
    ///
    /// `source` must stay mapped during the call; the kernel answers EFAULT (`failed`) where it is not.
    ///
    /// - Parameter stopsAtPresent: whether a page that is there already is an obstacle, `failed(EEXIST)`, and not stepped over. Shared
    ///   memory may hold one that was never mapped: its bytes are not those of `source`.
    public func copy(
        source: UInt, address: UInt, lengthBytes: Int, pageSize: PageSize, stopsAtPresent: Bool = false
    ) -> InstallOutcome {
        install(address: address, lengthBytes: lengthBytes, pageSize: pageSize, stopsAtPresent: stopsAtPresent) { offset, rest in
            pageferry_userfault_copy(
                rawValue, UInt64(address) + UInt64(offset), UInt64(source) + UInt64(offset), UInt64(rest))
        }
    }

    /// Moves the pages at `source` to `address` by page-table entry, without copying, and wakes the threads that wait for
    /// them (`UFFDIO_MOVE`, feature `move`). Only private anonymous memory, and only within the process that opened the
    /// userfaultfd. What was moved away from `source` reads as zero afterwards.
    ///
    /// `failed(ENOENT)`: a page of `source` was never written. `failed(EBUSY)`: a page is pinned or shared; use `copy`.
    public func move(source: UInt, address: UInt, lengthBytes: Int, pageSize: PageSize) -> InstallOutcome {
        install(address: address, lengthBytes: lengthBytes, pageSize: pageSize, absenceMeansUnregistered: false) {
            offset, rest in
            pageferry_userfault_move(
                rawValue, UInt64(address) + UInt64(offset), UInt64(source) + UInt64(offset), UInt64(rest))
        }
    }

    /// Maps zeros over [address, address + lengthBytes) and wakes the threads that wait there (`UFFDIO_ZEROPAGE`).
    /// On anonymous and shared memory; hugetlbfs has no such operation (`failed(EINVAL)`): write zeros and continue.
    public func zero(address: UInt, lengthBytes: Int, pageSize: PageSize) -> InstallOutcome {
        install(address: address, lengthBytes: lengthBytes, pageSize: pageSize) { offset, rest in
            pageferry_userfault_zero(rawValue, UInt64(address) + UInt64(offset), UInt64(rest))
        }
    }

    /// Marks pages as lost: whoever touches them, or waits for them, gets SIGBUS in place of wrong bytes
    /// (`UFFDIO_POISON`, feature `poison`). For pages that can never arrive. Present pages are left as they are.
    public func poison(address: UInt, lengthBytes: Int, pageSize: PageSize) -> InstallOutcome {
        install(address: address, lengthBytes: lengthBytes, pageSize: pageSize) { offset, rest in
            pageferry_userfault_poison(rawValue, UInt64(address) + UInt64(offset), UInt64(rest))
        }
    }

    @inline(__always)
    private func install(
        address: UInt, lengthBytes: Int, pageSize: PageSize, absenceMeansUnregistered: Bool = true,
        stopsAtPresent: Bool = false,
        step: (_ offset: Int, _ rest: Int) -> pageferry_userfault_install
    ) -> InstallOutcome {
        precondition(lengthBytes > 0 && lengthBytes & (pageSize.bytes - 1) == 0, "installs are whole pages")
        var done = 0
        var presentBytes = 0
        var absentBytes = 0
        /// What is tried at once: all that is left, but behind a boundary.
        var most = lengthBytes
        var obstacle: InstallObstacle?
        while done < lengthBytes && obstacle == nil {
            let piece = min(most, lengthBytes - done)
            let answer = step(done, piece)
            switch answer.error {
            case 0:
                done += piece
                most = lengthBytes
            case ENOENT where absenceMeansUnregistered && piece > pageSize.bytes:
                most = max(pageSize.bytes, piece / 2 & -pageSize.bytes)
            case ENOENT where absenceMeansUnregistered:
                done += pageSize.bytes
                absentBytes += pageSize.bytes
            case EAGAIN where answer.done > 0:
                // Stopped in the middle; the reason comes with the next attempt.
                done += Int(answer.done)
            case EEXIST where !stopsAtPresent:
                done += pageSize.bytes
                presentBytes += pageSize.bytes
            case EAGAIN: obstacle = .retryAfterEvents
            case ESRCH: obstacle = .vmmGone
            case let code: obstacle = .failed(code: code)
            }
        }
        // The kernel wakes only those whose page it mapped itself just now. Failure to wake means that nobody is left.
        if presentBytes > 0 { _ = pageferry_userfault_wake(rawValue, UInt64(address), UInt64(done)) }
        if absentBytes == lengthBytes { return .unregistered }
        if let obstacle { return InstallOutcome(doneBytes: done, obstacle: obstacle) }
        return presentBytes + absentBytes == lengthBytes ? .alreadyPresent : .installed
    }
}
