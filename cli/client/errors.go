package client

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callError is a failed call as people read it, with the status below it.
type callError struct {
	text   string
	status *status.Status
}

func (e *callError) Error() string              { return e.text }
func (e *callError) GRPCStatus() *status.Status { return e.status }

// Explain turns an error of a call into the sentence that its status carries. Other errors stay as they are.
func (c *Client) Explain(err error) error {
	if err == nil {
		return nil
	}
	var done *callError
	if errors.As(err, &done) {
		return err
	}
	var with interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &with) {
		return err
	}
	st := with.GRPCStatus()
	text := st.Message()
	if st.Code() == codes.Unavailable && lostConnection(text) {
		text = fmt.Sprintf("lost the connection to berthd at %s: running containers go on without it; see %s", c.host, daemonLog())
	}
	return &callError{text: text, status: st}
}

// daemonLog says where berthd logs to, as far as the host tells.
func daemonLog() string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return "its log"
	}
	return "\"journalctl -u berthd\""
}

// lostConnection tells gRPC's own sentences about a broken connection from the daemon's.
func lostConnection(text string) bool {
	for _, sign := range []string{"error reading from server", "connection error", "transport is closing", "closing transport"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// IsNotFound tells whether the daemon knows no such object.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsUnauthenticated tells whether a registry did not accept credentials.
func IsUnauthenticated(err error) bool { return status.Code(err) == codes.Unauthenticated }

// IsPrecondition tells whether an object's state does not allow the call.
func IsPrecondition(err error) bool { return status.Code(err) == codes.FailedPrecondition }

// StartExitCode returns the status that a shell gives for a command that did not start: 127 not found, 126 not
// executable. It is 0 where the error has another reason.
func StartExitCode(err error) int {
	for _, detail := range status.Convert(err).Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok {
			continue
		}
		if code, err := strconv.Atoi(info.GetMetadata()["exit_code"]); err == nil {
			return code
		}
	}
	return 0
}

// IsInvalid tells whether the daemon takes no such argument.
func IsInvalid(err error) bool { return status.Code(err) == codes.InvalidArgument }

// IsUnimplemented tells whether the daemon has no such call.
func IsUnimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }
