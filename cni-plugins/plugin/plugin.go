// Package plugin is the CNI protocol as berth's plugins see it: a request that was parsed and checked, five functions
// that serve it, and the JSON that goes back. The same functions run in a process of their own and inside another's.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/internal/errdefs"
)

// Plugin is one CNI plugin. Its functions take the network namespace of the calling thread for the host's; the thread
// must be locked to its goroutine. A nil function means that the command has nothing to do.
type Plugin struct {
	// Name is the type that a network configuration asks for.
	Name string
	// Add attaches a container and returns the result with what earlier plugins of the chain did in it.
	Add func(context.Context, *Request) (*types100.Result, error)
	// Del undoes Add. It succeeds when there is nothing to undo.
	Del func(context.Context, *Request) error
	// Check fails if something that Add made is missing or different.
	Check func(context.Context, *Request) error
	// GC removes what belongs to attachments of the network that are not in the configuration's list: see Request.Stale.
	GC func(context.Context, *Request) error
	// Status fails if an Add would fail.
	Status func(context.Context, *Request) error
	// Repair puts back what Check misses on the host, and leaves the container's side alone. CNI has no command for it: a caller in the
	// same process asks for it by Call.Repair.
	Repair func(context.Context, *Request) error
}

// Request is one call of a plugin.
type Request struct {
	Command     string
	ContainerID string
	Netns       string
	IfName      string
	Args        string // CNI_ARGS
	Path        string // CNI_PATH
	Config      []byte // the plugin's network configuration, JSON
	// Sockets are those of the host's network namespace.
	Sockets *nft.Sockets

	// Common holds the keys of Config that the specification defines. Its PrevResult is not parsed: Prev is.
	Common types.PluginConf
	// Prev is the result of the plugins before this one, or of the whole chain for Del and Check; nil if there is none.
	Prev *types100.Result
}

// versions are the CNI versions that the plugins speak.
func versions() version.PluginInfo {
	return version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// since tells which version of CNI brought a command. The others were always there.
func since(command string) string {
	switch command {
	case "CHECK":
		return "0.4.0"
	case "GC", "STATUS":
		return "1.1.0"
	}
	return "0.1.0"
}

// Call is one call of a plugin as its caller makes it.
type Call struct {
	Getenv  func(string) string // gives the CNI_* variables
	Config  []byte              // what a plugin reads from its standard input
	Sockets *nft.Sockets        // to use for nftables
	Repair  bool                // makes a CHECK a repair
}

// Run serves one call. It returns what a plugin writes to its standard output, or the error that it would write there.
func (p Plugin) Run(ctx context.Context, call Call) ([]byte, *types.Error) {
	command := call.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		return encodeVersion(call.Config), nil
	}
	request, err := parse(call)
	if err != nil {
		return nil, asError(err, command, call.Config)
	}
	if call.Repair && command == "CHECK" {
		p.Check = p.Repair
	}
	output, err := p.serve(ctx, request)
	if err != nil {
		return nil, asError(err, command, call.Config)
	}
	return output, nil
}

func encodeVersion(config []byte) []byte {
	var asked struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(config, &asked) // VERSION answers whatever it is asked with
	if asked.CNIVersion == "" {
		asked.CNIVersion = version.Current()
	}
	answer := struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{asked.CNIVersion, versions().SupportedVersions()}
	output, _ := json.Marshal(answer) // strings always encode
	return append(output, '\n')
}

func (p Plugin) serve(ctx context.Context, request *Request) ([]byte, error) {
	call := map[string]func(context.Context, *Request) error{"DEL": p.Del, "CHECK": p.Check, "GC": p.GC, "STATUS": p.Status}[request.Command]
	if request.Command != "ADD" {
		if call == nil {
			return nil, nil
		}
		return nil, call(ctx, request)
	}
	result, err := p.Add(ctx, request)
	if err != nil {
		return nil, err
	}
	output, err := encode(result, request.Common.CNIVersion)
	if err != nil && p.Del != nil {
		err = errors.Join(err, p.Del(ctx, request))
	}
	return output, err
}

// encode writes a result in the version that the caller asked for. Some cannot be expressed in old ones.
func encode(result *types100.Result, asked string) ([]byte, error) {
	if err := trim(result, asked); err != nil {
		return nil, err
	}
	converted, err := result.GetAsVersion(asked)
	if err != nil {
		return nil, fmt.Errorf("cannot express the result in CNI version %q: %w", asked, err)
	}
	output, err := json.Marshal(converted)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the result: %w", err)
	}
	return append(output, '\n'), nil
}

// trim removes from a result what came with CNI 1.1, for callers of older versions. The library does not.
func trim(result *types100.Result, asked string) error {
	enough, err := version.GreaterThanOrEqualTo(asked, "1.1.0")
	if err != nil || enough {
		return err
	}
	for _, described := range result.Interfaces {
		described.Mtu, described.SocketPath, described.PciID = 0, "", ""
	}
	for i, route := range result.Routes {
		result.Routes[i] = &types.Route{Dst: route.Dst, GW: route.GW}
	}
	return nil
}

func parse(call Call) (*Request, error) {
	getenv, config := call.Getenv, call.Config
	request := &Request{
		Sockets: call.Sockets,
		Command: getenv("CNI_COMMAND"), ContainerID: getenv("CNI_CONTAINERID"), Netns: getenv("CNI_NETNS"),
		IfName: getenv("CNI_IFNAME"), Args: getenv("CNI_ARGS"), Path: getenv("CNI_PATH"), Config: config,
	}
	if err := request.checkEnvironment(); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &request.Common); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "cannot decode the network configuration", err.Error())
	}
	if request.Common.CNIVersion == "" {
		request.Common.CNIVersion = "0.1.0"
	}
	if err := request.checkVersion(); err != nil {
		return nil, err
	}
	if request.Common.Name == "" {
		return nil, InvalidConfig("the network configuration has no name")
	}
	if err := utils.ValidateNetworkName(request.Common.Name); err != nil {
		return nil, naming(err, "network", request.Common.Name)
	}
	return request, request.parsePrev()
}

func (r *Request) checkEnvironment() error {
	required := map[string][]string{
		"ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}, "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL": {"CNI_CONTAINERID", "CNI_IFNAME"}, "GC": {}, "STATUS": {},
	}
	names, known := required[r.Command]
	if !known {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND %q", r.Command), "")
	}
	value := map[string]string{"CNI_CONTAINERID": r.ContainerID, "CNI_NETNS": r.Netns, "CNI_IFNAME": r.IfName}
	var missing []string
	for _, name := range names {
		if value[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_COMMAND %s needs the environment variables %s", r.Command, strings.Join(missing, ", ")), "")
	}
	if len(names) == 0 {
		return nil
	}
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return naming(err, "CNI_CONTAINERID", r.ContainerID)
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return naming(err, "CNI_IFNAME", r.IfName)
	}
	return nil
}

// naming puts into the message of a CNI error what the caller gave.
func naming(err *types.Error, what, value string) error {
	return types.NewError(err.Code, fmt.Sprintf("%s %q: %s", what, value, err.Msg), err.Details)
}

func (r *Request) checkVersion() error {
	var reconciler version.Reconciler
	if err := reconciler.Check(r.Common.CNIVersion, versions()); err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	enough, err := version.GreaterThanOrEqualTo(r.Common.CNIVersion, since(r.Command))
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot decode cniVersion", err.Error())
	}
	if !enough {
		return types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("CNI version %s has no command %s, it came with %s", r.Common.CNIVersion, r.Command, since(r.Command)), "")
	}
	return nil
}

func (r *Request) parsePrev() error {
	if r.Common.RawPrevResult == nil {
		return nil
	}
	if err := version.ParsePrevResult(&r.Common); err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot decode prevResult", err.Error())
	}
	prev, err := types100.NewResultFromResult(r.Common.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot decode prevResult", err.Error())
	}
	r.Prev = prev
	return nil
}

// Decode reads the plugin's own keys of the configuration into conf.
func (r *Request) Decode(conf any) error {
	if err := json.Unmarshal(r.Config, conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("cannot decode the configuration of network %q", r.Common.Name), err.Error())
	}
	return nil
}

// Refused holds the keys that a plugin knows and does not honour. Check returns an error if one of them is set.
type Refused interface{ Check(network string) error }

// DecodeSupported is Decode for a configuration that must set nothing of what is refused.
func (r *Request) DecodeSupported(conf any, refused Refused) error {
	for _, into := range []any{conf, refused} {
		if err := r.Decode(into); err != nil {
			return err
		}
	}
	return refused.Check(r.Common.Name)
}

// InvalidConfig returns CNI's error for a network configuration that cannot be honoured.
func InvalidConfig(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

// Unsupported returns CNI's error for an option that is understood but not offered.
func Unsupported(format string, args ...any) error {
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf(format, args...), "")
}

// ErrUnavailable is the specification's code for a plugin that cannot serve an ADD, as the answer to STATUS. The library has no name for it.
const ErrUnavailable = 50

// The codes of our own, for classes of failure that CNI has none for.
const (
	ErrAlreadyAllocated = 101 // a port or an address is in use
	ErrExhausted        = 102 // no address is left
)

// asError gives err a CNI code: its own if it has one, or else one by its class.
func asError(err error, command string, config []byte) *types.Error {
	var known *types.Error
	if errors.As(err, &known) {
		return known
	}
	code := types.ErrInternal
	switch {
	case errors.Is(err, errdefs.ErrAlreadyExists):
		code = ErrAlreadyAllocated
	case errors.Is(err, errdefs.ErrResourceExhausted):
		code = ErrExhausted
	case errors.Is(err, errdefs.ErrInvalidArgument):
		code = types.ErrInvalidNetworkConfig
	case errors.Is(err, errdefs.ErrUnimplemented):
		code = types.ErrUnsupportedField
	case command == "STATUS":
		code = ErrUnavailable
	}
	var named struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	_ = json.Unmarshal(config, &named) // the message is good without them
	return types.NewError(code, err.Error(), fmt.Sprintf("network %q, plugin %q", named.Name, named.Type))
}
