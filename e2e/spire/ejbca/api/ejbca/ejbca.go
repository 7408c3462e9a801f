// Package ejbca has the names that SPIRE's EJBCA plugin compiles against and does nothing. The
// client it stands for is not on the module proxy, and no test configures that plugin: it fails
// when it is, as there is no client to be made.
package ejbca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

var errNoClient = errors.New("this build of SPIRE has no EJBCA client")

// Authenticator would sign in.
type Authenticator any

// MTLSAuthenticatorBuilder would make an Authenticator.
type MTLSAuthenticatorBuilder struct{}

func NewMTLSAuthenticatorBuilder() *MTLSAuthenticatorBuilder { return &MTLSAuthenticatorBuilder{} }

func (b *MTLSAuthenticatorBuilder) WithClientCertificate(*tls.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

func (b *MTLSAuthenticatorBuilder) WithCaCertificates([]*x509.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

func (b *MTLSAuthenticatorBuilder) Build() (Authenticator, error) { return nil, errNoClient }

// Configuration would say where EJBCA is.
type Configuration struct{ Host string }

func NewConfiguration() *Configuration { return &Configuration{} }

func (*Configuration) SetAuthenticator(Authenticator) {}

// APIClient would ask EJBCA.
type APIClient struct{ V1CertificateApi *V1CertificateApiService }

func NewAPIClient(*Configuration) (*APIClient, error) { return nil, errNoClient }

// V1CertificateApiService would enroll certificates.
type V1CertificateApiService struct{}

func (*V1CertificateApiService) EnrollPkcs10Certificate(context.Context) ApiEnrollPkcs10CertificateRequest {
	return ApiEnrollPkcs10CertificateRequest{}
}

// ApiEnrollPkcs10CertificateRequest would be sent.
type ApiEnrollPkcs10CertificateRequest struct{}

func (r ApiEnrollPkcs10CertificateRequest) EnrollCertificateRestRequest(EnrollCertificateRestRequest) ApiEnrollPkcs10CertificateRequest {
	return r
}

func (ApiEnrollPkcs10CertificateRequest) Execute() (*CertificateRestResponse, *http.Response, error) {
	return nil, nil, errNoClient
}

// EnrollCertificateRestRequest would say what is wanted.
type EnrollCertificateRestRequest struct{}

func NewEnrollCertificateRestRequest() *EnrollCertificateRestRequest {
	return &EnrollCertificateRestRequest{}
}

func (*EnrollCertificateRestRequest) SetUsername(string)                 {}
func (*EnrollCertificateRestRequest) SetPassword(string)                 {}
func (*EnrollCertificateRestRequest) SetCertificateRequest(string)       {}
func (*EnrollCertificateRestRequest) SetCertificateAuthorityName(string) {}
func (*EnrollCertificateRestRequest) SetCertificateProfileName(string)   {}
func (*EnrollCertificateRestRequest) SetEndEntityProfileName(string)     {}
func (*EnrollCertificateRestRequest) SetIncludeChain(bool)               {}
func (*EnrollCertificateRestRequest) SetAccountBindingId(string)         {}

// CertificateRestResponse would be the answer.
type CertificateRestResponse struct{ CertificateChain []string }

func (*CertificateRestResponse) GetResponseFormat() string { return "" }
func (*CertificateRestResponse) GetCertificate() string    { return "" }

// GenericOpenAPIError would be a refusal.
type GenericOpenAPIError struct{}

func (*GenericOpenAPIError) Error() string { return errNoClient.Error() }
func (*GenericOpenAPIError) Body() []byte  { return nil }
