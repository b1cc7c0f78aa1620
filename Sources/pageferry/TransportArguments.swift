import ArgumentParser
import PageFerry

// The choices as the command line names them.
extension TransportChoice: ExpressibleByArgument {}
extension PushMethod: ExpressibleByArgument {}
