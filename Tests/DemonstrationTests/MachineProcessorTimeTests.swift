import Foundation
import Glibc
import PageCore
import TestSupport
import Testing

@testable import Demonstration

@Suite(.leavesNothing) struct MachineProcessorTimeTests {
    private func sample(_ at: UInt64, _ used: UInt64) -> MachineProcessorTime.Sample { .init(atNanoseconds: at, usedNanoseconds: used) }

    @Test func samplesAroundTheTimesCount() throws {
        let samples = [sample(10, 1_000_000_000), sample(20, 1_500_000_000), sample(30, 2_250_000_000), sample(40, 4_000_000_000)]
        #expect(try MachineProcessorTime.seconds(samples, fromNanoseconds: 25, toNanoseconds: 29) == 0.75)
        #expect(try MachineProcessorTime.seconds(samples, fromNanoseconds: 10, toNanoseconds: 40) == 3)
        #expect(try MachineProcessorTime.seconds(samples, fromNanoseconds: 11, toNanoseconds: 31) == 3)
        #expect(throws: DemonstrationError.self) { try MachineProcessorTime.seconds(samples, fromNanoseconds: 9, toNanoseconds: 20) }
        #expect(throws: DemonstrationError.self) { try MachineProcessorTime.seconds(samples, fromNanoseconds: 20, toNanoseconds: 41) }
    }

    /// Whoever has ended before the next sample was due is known all the same.
    @Test func whatEndedIsCounted() throws {
        let time = MachineProcessorTime(vcpus: 0) { getpid() }
        time.stop()
        let last = MonotonicClock.nowNanoseconds()
        #expect(throws: DemonstrationError.self) { try time.seconds(fromNanoseconds: last, toNanoseconds: last) }
        time.ended(usedNanoseconds: 1 << 50)
        #expect(try time.seconds(fromNanoseconds: last, toNanoseconds: last) > 1_000_000)
    }

    @Test func vcpusByName() {
        #expect(MachineThreads.isVCPU("CPU 0/TCG\n") && MachineThreads.isVCPU("CPU 11/KVM"))
        #expect(!MachineThreads.isVCPU("qemu-system-x86") && !MachineThreads.isVCPU("CPU") && !MachineThreads.isVCPU("migration"))
        #expect(MachineThreads.usedNanoseconds("123456789 42 7\n") == 123_456_789)
        #expect(MachineThreads.usedNanoseconds("") == nil)
    }

    /// A process with a busy thread that is named as a vCPU is, and a busy one that is not and ends.
    @Test func aThreadThatEndsIsCountedAndAVCPUIsNot() throws {
        let script = """
            import ctypes, threading, time
            name = ctypes.CDLL(None).prctl
            def busy(seconds):
                end = time.thread_time() + seconds
                while time.thread_time() < end: pass
            def vcpu():
                name(15, b"CPU 0/TCG", 0, 0, 0)
                busy(0.4)
                threading.Event().wait()
            threading.Thread(target=vcpu, daemon=True).start()
            worker = threading.Thread(target=busy, args=(0.2,))
            worker.start(); worker.join()
            print("ended", flush=True)
            threading.Event().wait()
            """
        let output = try LineChannel()
        let process = try ChildProcess(["python3", "-c", script], inheriting: [1: output.theirs])
        output.start()
        defer { output.stop() }
        #expect(output.wait(timeoutNanoseconds: 60_000_000_000) { $0.text == "ended" } != nil)
        var threads = MachineThreads(vcpus: 1)
        // The named thread may still be on its way to its share.
        let deadline = MonotonicClock.nowNanoseconds() + 60_000_000_000
        var sample = threads.sample(process.processIdentifier)
        while sample == nil, MonotonicClock.nowNanoseconds() < deadline {
            _ = poll(nil, 0, 5)
            sample = threads.sample(process.processIdentifier)
        }
        let used = try #require(sample).usedNanoseconds
        #expect(used >= 190_000_000, "the ended thread's 0.2 s, and the interpreter's start; was \(used) ns")
        process.end()
        // All of it, the vCPU's share too, is in what the kernel tells of an ended child.
        #expect(process.processorNanoseconds >= used)
        #expect(threads.sample(process.processIdentifier) == nil)
    }
}
